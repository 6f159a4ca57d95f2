"""`uniform demo`: run the documented commands on generated clips, then write one page with the results."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli import console

MARKS_NAME = "done.json"
EVALUATED = 8
"""Held-out clips that samples are measured on."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    title: str
    arguments: tuple[str, ...]
    """The arguments after `uniform`."""
    makes: Path
    """A file that the command writes last."""

    @property
    def line(self) -> str:
        """The command line."""
        return shlex.join(["uniform", *self.arguments])


def demo(
    out: Annotated[Path, typer.Option(help="Folder that receives everything.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=32, help="Training clips to generate.")] = 160,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 400,
    workers: Annotated[int, typer.Option(min=1, help="Ray workers for the preparation.")] = 2,
) -> None:
    """Run everything end to end on generated clips: manifest, shards, training, one sample per task, one page.

    Takes minutes on a laptop. Commands that an earlier demo finished are not run again.
    """
    from cli.demo_page import write_page

    out.mkdir(parents=True, exist_ok=True)
    shown = []
    for step in _steps(out, clips, steps, workers):
        _do(step, out)
        shown.append((step.title, step.line))
    page = write_page(out, shown)
    console.out.print(f"\nResults: {page.absolute()}", markup=False)


def _do(step: Step, out: Path) -> None:
    """Run a step, unless an earlier demo finished it."""
    console.out.print(f"\n[bold]{step.title}[/]")
    console.out.print(f"$ {step.line}", markup=False, style="dim")
    done = _read_marks(out)
    if step.line in done and step.makes.exists():
        console.out.print(f"  done before, in {done[step.line]:.1f} s", markup=False)
        return
    done[step.line] = _run(step.arguments)
    (out / MARKS_NAME).write_text(json.dumps(done, indent=2))


def _steps(out: Path, clips: int, steps: int, workers: int) -> Iterator[Step]:
    """The demo's commands. Later ones read results of earlier ones, so each runs before the next is built."""
    world, shards, run, samples = out / "world", out / "shards", out / "run", out / "samples"
    manifest, index, preview = world / "avworld_w1.toml", shards / "index.parquet", out / "preview"

    def step(title: str, makes: Path, *arguments: object) -> Step:
        return Step(title, tuple(str(argument) for argument in arguments), makes)

    yield step("Generate a small dataset", manifest, "world", "write", world, "--clips", clips)
    yield step("Check its manifest", manifest, "manifest", "check", manifest)
    prepare = ("--recipe", "toy", "--out", shards, "--workers", workers)
    yield step("Prepare latent shards on local Ray", index, "pipeline", "run", manifest, *prepare)
    yield step("Check the shards", index, "shards", "lint", shards)
    sheet = preview / "contact_sheet.png"
    yield step("Decode some latents", sheet, "shards", "preview", shards, "--split", "test", "--out", preview)
    data = ("--shards", shards, "--split", "train")
    yield step("Train the toy preset", run / "curve.png", "train", "toy", f"steps={steps}", *data, "--out", run)
    common = ("--checkpoint", run, "--out", samples)
    text = "a red ball bounces on the floor with a low tone"
    yield step("Text to audible video", samples / "t2av.mp4", "sample", "--task", "t2av", "--text", text, *common)
    media, start_s = _held_out_clip(world)
    clip = (media, "--start", start_s)
    yield step("Audio to video", samples / "a2v.mp4", "sample", "--task", "a2v", *clip, *common)
    yield step("Video to audio", samples / "v2a.mp4", "sample", "--task", "v2a", *clip, *common)
    real, tables = _held_out_list(world), out / "evaluation"
    judged = ("--real", real, "--protocol", "offline", "--task", "v2a", "--out", tables, "--skip-missing")
    yield step(
        "Measure V2A samples against the real clips",
        tables / "v2a-text" / "index.html",
        *("evaluate", "tables", "--checkpoint", run, *judged),
    )


def _held_out_clip(world: Path) -> tuple[Path, float]:
    """File and start, in seconds, of the first clip of the test split."""
    rows = (json.loads(line) for line in (world / "listing.jsonl").read_text(encoding="utf-8").splitlines())
    row = next(row for row in rows if row["split"] == "test")
    return world / row["path"], row["start_ms"] / 1000


def _held_out_list(world: Path) -> Path:
    """A list of the first clips of the test split, as `uniform evaluate` reads it."""
    rows = (json.loads(line) for line in (world / "listing.jsonl").read_text(encoding="utf-8").splitlines())
    chosen = [row for row in rows if row["split"] == "test"][:EVALUATED]
    path = world / "evaluated.jsonl"
    lines = [
        json.dumps(
            {"clip_id": f"test-{n:02d}", "path": row["path"], "start_ms": row["start_ms"], "text": row["caption"]}
        )
        for n, row in enumerate(chosen)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _run(arguments: Sequence[str]) -> float:
    """Run one command in its own process. Returns its seconds; a failure ends the demo."""
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-m", "cli.main", *arguments])
    if run.returncode != 0:
        console.err.print(f"the command failed with exit code {run.returncode}; the next demo resumes there")
        raise typer.Exit(run.returncode)
    return time.monotonic() - started


def _read_marks(out: Path) -> dict[str, float]:
    """Seconds of each command that an earlier demo finished."""
    try:
        marks = json.loads((out / MARKS_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}
