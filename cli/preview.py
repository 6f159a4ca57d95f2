"""`uniform shards preview`: decode some clips of a folder of shards."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console


def preview(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with index.parquet and card.json.")],
    number: Annotated[int, typer.Option("-n", "--number", help="Clips to decode, evenly spaced.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder that receives the MP4 files and contact_sheet.png.")] = Path(
        "preview"
    ),
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="Option of a codec: KIND.OPTION=VALUE, e.g. video.weights=FOLDER.")
    ] = None,
) -> None:
    """Decode clips from their latents: an MP4 with sound for each, and a contact sheet of all."""
    from uniform.codecs.options import parse_options
    from uniform.sampling.preview import preview_shards

    written = preview_shards(folder, out, clips=number, split=split, options=parse_options(codec or []))
    console.out.print(f"{len(written.videos)} clips in {out}, all of them on {written.sheet}", markup=False)
