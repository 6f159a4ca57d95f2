"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from cli.places import local_name, local_path

INPUT, SAMPLER, OUTPUT, COMPUTE = "Input", "Sampler", "Output", "Compute"
"""Titles of the panels that group the options of a long help."""

RunOut = Annotated[Path, typer.Argument(metavar="OUT", help="Run directory.", parser=local_path)]
ShardFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder with index.parquet and card.json.", parser=local_path)
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder of the media files, instead of the manifest's.",
        rich_help_panel=INPUT,
        parser=local_path,
    ),
]
AllowPartial = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Accept a listing with fewer or more lines than the published one.",
        rich_help_panel=INPUT,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Name of a built-in recipe, or a TOML file.",
        rich_help_panel=INPUT,
        parser=local_name,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes. Default: what the cluster's resources allow.", rich_help_panel=COMPUTE),
]
Inline = Annotated[bool, typer.Option("--inline", help="Run in this process, without Ray.", rich_help_panel=COMPUTE)]
Address = Annotated[str | None, typer.Option(help="Address of a Ray cluster.", rich_help_panel=COMPUTE)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=COMPUTE)]
CodecOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--codec",
        help="Option of a codec: KIND.OPTION=VALUE, for example video.weights=FOLDER. May be repeated.",
        rich_help_panel=COMPUTE,
    ),
]
