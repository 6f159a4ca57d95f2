"""Options that several commands of `uniform evaluate` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import COMPUTE, INPUT, OUTPUT
from cli.places import local_path

if TYPE_CHECKING:
    from uniform.evaluation.protocol import Protocol
    from uniform.evaluation.run import Options

RealSet = Annotated[
    Path | None,
    typer.Option(
        "--real",
        help="Real clips: a folder, or a list (.parquet, .jsonl, .csv).",
        rich_help_panel=INPUT,
        parser=local_path,
    ),
]
CaptionedSet = Annotated[
    Path,
    typer.Option("--real", help="Real clips: a folder or list, with a text or label per clip.", parser=local_path),
]
Checkpoint = Annotated[
    Path,
    typer.Option("--checkpoint", "-c", help="Run directory, checkpoint, or exported .safetensors.", parser=local_path),
]
ProtocolName = Annotated[
    str, typer.Option("--protocol", help="A shipped protocol by name, or a .toml file.", rich_help_panel=INPUT)
]
MediaRoot = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder that the paths of lists may lie in. Default: the list's.",
        rich_help_panel=INPUT,
        parser=local_path,
    ),
]
AllowUnequal = Annotated[
    bool,
    typer.Option(
        "--allow-unequal",
        help="Clips without a partner are left out; sets that need none are compared at unequal N.",
        rich_help_panel=INPUT,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help="Only these metrics: a,b,c. Default: the protocol's.", rich_help_panel=INPUT),
]
WeightsFolder = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Folder of the networks' files. Default: where `weights fetch` puts them.",
        rich_help_panel=COMPUTE,
        parser=local_path,
    ),
]
DeviceName = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.", rich_help_panel=COMPUTE)]
Decoders = Annotated[int, typer.Option("--workers", min=1, help="Processes that decode.", rich_help_panel=COMPUTE)]
SkipMissing = Annotated[
    bool,
    typer.Option("--skip-missing", help="Leave out metrics whose network is not there.", rich_help_panel=COMPUTE),
]
RequireKnown = Annotated[
    bool,
    typer.Option("--require-known", help="Refuse weights whose digest no publisher states.", rich_help_panel=COMPUTE),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Folder for features. Default: beside each set.", rich_help_panel=COMPUTE, parser=local_path
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        help="More real clips, for example a training split: distances from them too.",
        rich_help_panel=INPUT,
        parser=local_path,
    ),
]
CodecRow = Annotated[
    str | None,
    typer.Option(
        "--codec-row",
        help="Also judge the real clips after these codecs: VIDEO,AUDIO, for example dct,dct.",
        rich_help_panel=INPUT,
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 where a clip was dropped.")]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder that receives result.json, clips.parquet, index.html.",
        rich_help_panel=OUTPUT,
        parser=local_path,
    ),
]
Samples = Annotated[
    Path, typer.Argument(help="Samples: a folder, or a list. With --world: a folder of samples.", parser=local_path)
]
OutPlace = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for result.json, clips.parquet, index.html. Default: evaluation. With --world: a JSON file.",
        rich_help_panel=OUTPUT,
        parser=local_path,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a stopped run was. It is always so; the flag says it.")
]
World = Annotated[
    Path | None,
    typer.Option(
        "--world",
        help="Instead of --real: the folder of `uniform world write` that the samples came from.",
        parser=local_path,
    ),
]
WorldSpec = Annotated[str, typer.Option("--spec", help="With --world: geometry of the samples, toy or paper.")]


def evaluation_options(
    weights: Path | None,
    device: str,
    workers: int,
    root: Path | None,
    allow_unequal: bool,
    skip_missing: bool,
    require_known: bool,
    cache: Path | None,
    codec_row: str | None,
    reference: Path | None,
    codec: list[str] | None,
    protocol: "Protocol",
) -> "Options":
    """The options of `uniform.evaluation.run.evaluate`."""
    from cli.evaluate_sampling import codec_of_row
    from uniform.evaluation.extractors.catalogue import default_folder
    from uniform.evaluation.run import Options

    return Options(
        weights=weights or default_folder(),
        device=device,
        workers=workers,
        root=root,
        allow_unequal=allow_unequal,
        skip_missing=skip_missing,
        require_known=require_known,
        cache=cache,
        reference=reference,
        codec=None if codec_row is None else codec_of_row(codec_row, protocol.reading, device, codec or []),
    )


def words(text: str | None) -> tuple[str, ...]:
    """A list that is separated by commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
