"""`uniform evaluate`: judge samples against the exact truth of an AV world."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console

if TYPE_CHECKING:
    from uniform.evaluation.world.judge import Measure


def evaluate(
    samples: Annotated[Path, typer.Argument(help="Folder of samples (NAME.mp4 with NAME.json), of any tasks.")],
    world: Annotated[Path, typer.Option("--world", help="Folder of `uniform world write` that the samples came from.")],
    spec: Annotated[str, typer.Option("--spec", help="Geometry of the samples: toy or paper.")] = "toy",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file that receives every number.")] = None,
) -> None:
    """Event F1, attributes and their like for each task, with 95% intervals and beside what chance would give."""
    import json

    from uniform.atomic import write_bytes
    from uniform.evaluation.world.judge import as_json, judge, read_samples
    from uniform.spec import spec_by_name

    geometry = spec_by_name(spec)
    judged = judge(read_samples(samples, world, geometry), geometry)
    for task, measures in judged.items():
        console.out.print(f"{task}", markup=False)
        for name, measure in measures.items():
            console.out.print(_line(name, measure), markup=False)
    if out is not None:
        write_bytes(out, f"{json.dumps(as_json(judged), indent=1, sort_keys=True)}\n".encode())


def _line(name: str, measure: "Measure") -> str:
    interval = f"[{measure.low:.3f}, {measure.high:.3f}]"
    return f"  {name:<18}{measure.mean:>7.3f}  {interval:<16}  chance {measure.chance:.3f}  {measure.clips} clips"
