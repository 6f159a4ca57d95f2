"""`uniform evaluate`: judge samples against the exact truth of an AV world."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.places import local_path, writable_place

if TYPE_CHECKING:
    from uniform.evaluation.world.sample_scores import Measure


def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="Folder of samples (NAME.mp4 with NAME.json), of any tasks.", parser=local_path)
    ],
    world: Annotated[
        Path,
        typer.Option(
            "--world",
            help="Folder of `uniform world write` that the samples came from.",
            parser=local_path,
        ),
    ],
    spec: Annotated[str, typer.Option("--spec", help="Geometry of the samples: toy or paper.")] = "toy",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="JSON file, or its URL, that receives every number.", parser=writable_place),
    ] = None,
) -> None:
    """Event F1, attributes and their like for each task, with 95% intervals and beside what chance would give."""
    import json

    from uniform.atomic import write_bytes
    from uniform.evaluation.world.sample_scores import as_json, read_samples, score_samples
    from uniform.spec import spec_by_name
    from uniform.storage.outputs import output_file

    geometry = spec_by_name(spec)
    scored = score_samples(read_samples(samples, world, geometry), geometry)
    for task, measures in scored.items():
        console.out.print(f"{task}", markup=False)
        for name, measure in measures.items():
            console.out.print(_line(name, measure), markup=False)
    if out is not None:
        with output_file(out) as path:
            write_bytes(path, f"{json.dumps(as_json(scored), indent=1, sort_keys=True)}\n".encode())


def _line(name: str, measure: "Measure") -> str:
    interval = f"[{measure.low:.3f}, {measure.high:.3f}]"
    return f"  {name:<18}{measure.mean:>7.3f}  {interval:<16}  chance {measure.chance:.3f}  {measure.clips} clips"
