"""What judging a synthetic world leaves behind: a JSON file, and the page of an evaluation with bars and players."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.evaluation.html import STYLE, policy, relative_url, render
from uniform.evaluation.world.sample_scores import Measure, as_json
from uniform.tasks import Task

PLAYERS = 12
_LEFT_PX, _WIDTH_PX, _BAR_PX = 130, 220, 22


def write_judgement(
    judged: Mapping[Task, Mapping[str, Measure]], samples: Path, world: Path, out: Path
) -> tuple[Path, ...]:
    """Write every number, and with a folder the page too.

    Args:
        out: a .json file, or a folder that receives result.json and index.html.
    """
    content = f"{json.dumps(as_json(judged), indent=1, sort_keys=True)}\n".encode()
    if out.suffix == ".json":
        write_bytes(out, content)
        return (out,)
    write_bytes(out / "result.json", content)
    shown = sorted(samples.glob("*.mp4"))[:PLAYERS]
    page = render(
        "world.html.j2",
        policy=policy("", STYLE),
        style=STYLE,
        samples=str(samples),
        world=str(world),
        tasks=[_task(task, measures) for task, measures in judged.items()],
        players=[{"name": path.stem, "url": relative_url(path, out)} for path in shown],
    )
    write_bytes(out / "index.html", page.encode())
    return out / "index.html", out / "result.json"


def _task(task: Task, measures: Mapping[str, Measure]) -> dict[str, Any]:
    """Rows of numbers and bars; bars show scores that lie between 0 and 1."""
    bars: list[dict[str, Any]] = []
    for name, measure in measures.items():
        if 0.0 <= measure.mean <= 1.0:
            bars.append(
                {
                    "label": name,
                    "y": 4 + len(bars) * _BAR_PX,
                    "x": _LEFT_PX,
                    "width": max(1.0, round(measure.mean * _WIDTH_PX, 1)),
                    "chance": None if measure.chance != measure.chance else _place(measure.chance),
                    "low": _place(measure.low),
                    "high": _place(measure.high),
                    "value": f"{measure.mean:.3f}",
                }
            )
    numbers = {
        name: (f"{one.mean:.3f}", f"[{one.low:.3f}, {one.high:.3f}]", f"{one.chance:.3f}", str(one.clips))
        for name, one in measures.items()
    }
    return {"name": str(task), "numbers": numbers, "bars": bars, "height": 8 + _BAR_PX * max(1, len(bars))}


def _place(value: float) -> float:
    return round(_LEFT_PX + min(1.0, max(0.0, value)) * _WIDTH_PX, 1)
