"""Plan, status and report over a ledger of 300,000 clips x 5 stages: seconds and peak memory of each.

The ledger is made by a run with stages that do nothing; each command then runs in a process of its own.

    python benchmarks/ledger_scale.py [--clips 300000] [--folder FOLDER]
"""

import argparse
import hashlib
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.clip import Clip, Row
from pipelines.estimate.eta import forecasts
from pipelines.recipe import Recipe, make_recipe
from pipelines.report.page import write_report
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.plan import make_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.record import read_run_record
from pipelines.run.state import read_run_state
from pipelines.run.status import stage_statuses
from pipelines.run.units import Units
from pipelines.stage import Context, Resources, Store, Work
from uniform.spec import PAPER, Spec

LIMITS = {"plan": (10.0, 1.5), "status": (3.0, 1.5), "report": (20.0, 1.5)}
"""Seconds and GB that each may take."""
STAGES = 5
REJECTS = 50
"""One clip in so many is dropped at each stage."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Keeps nearly every clip and keeps nothing but the ledger."""

    needs = ()
    gives = ()
    store = Store("ledger")
    resources = Resources()

    number: int = 0

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Its number."""
        return {"number": self.number}

    def open(self, context: Context) -> Work:
        """Nothing to load."""
        return self._all

    def _all(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            dropped = int(clip.row.clip_id[:6], 16) % REJECTS == self.number
            yield clip.drop("silent", "RMS -71.3 dBFS, floor -60.0 dBFS") if dropped else clip


def rows(number: int) -> list[Row]:
    """Rows such as a listing of a web dataset gives."""
    return [
        Row(
            clip_id=hashlib.sha256(str(n).encode()).hexdigest()[:16],
            dataset="scale",
            split="train" if n % 20 else "test",
            source_kind="youtube",
            source_id=f"video{n:08d}",
            source_uri=f"https://www.youtube.com/watch?v=video{n:08d}",
            start_ms=1000 * (n % 600),
            duration_ms=4000,
            labels=(f"class {n % 309}",),
            extra={"listing": "train.csv"},
        )
        for n in range(number)
    ]


def recipe() -> Recipe:
    """Five stages that do nothing, in units of the paper recipe's size."""
    return make_recipe("scale", PAPER, 1024, [(f"stage-{n}", Pass(number=n)) for n in range(STAGES)])


def build(folder: Path, clips: int) -> None:
    """Make the ledger by a run."""
    began = time.perf_counter()
    run_pipeline(make_run(rows(clips), recipe(), folder), InlineBackend(), LogListener())
    seconds = time.perf_counter() - began
    print(
        f"made by a run: {clips} clips x {STAGES} stages in {seconds:.1f} s, "
        f"{1e6 * seconds / clips / STAGES:.0f} us per clip and stage"
    )


def plan(folder: Path) -> str:
    """What `uniform pipeline plan` does."""
    run = Run(folder=RunFolder(folder), recipe=recipe(), roots={})
    units = run.units()
    state = read_run_state(run.folder, run.recipe.names, len(units))
    planned = make_plan(state, RunInputs(run.recipe, units), run.recipe.steps)
    assert planned.finished
    return f"{sum(len(stage) for stage in planned.stages.values())} units compared"


def status(folder: Path) -> str:
    """What `uniform pipeline status` does."""
    place = RunFolder(folder)
    stages, units = read_run_record(place).stages, Units.read(place)
    state = read_run_state(place, stages, len(units))
    last, left = stage_statuses(place, state, units)[-1], forecasts(place, stages, units)[-1]
    return f"last stage: {last.tally}; {left.clips_left} clips left"


def report(folder: Path) -> str:
    """What `uniform pipeline report` does."""
    return f"{write_report(RunFolder(folder)).stat().st_size} bytes of HTML"


COMMANDS: dict[str, Callable[[Path], str]] = {"plan": plan, "status": status, "report": report}


def measured(name: str, folder: Path, answers: Any) -> None:
    """Run one command and report seconds, peak memory and the answer."""
    began = time.perf_counter()
    answer = COMMANDS[name](folder)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    answers.put((time.perf_counter() - began, gigabytes, answer))


def main() -> None:
    """Make the ledger, then run each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, help="where to make the ledger; one that is there is used again")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary) / "run"
        build(folder, chosen.clips)
        spawning = multiprocessing.get_context("spawn")
        for name, (seconds_allowed, gigabytes_allowed) in LIMITS.items():
            answers = spawning.Queue()
            process = spawning.Process(target=measured, args=(name, folder, answers))
            process.start()
            seconds, gigabytes, said = answers.get()
            process.join()
            good = seconds <= seconds_allowed and gigabytes <= gigabytes_allowed
            print(
                f"{name:7} {seconds:6.2f} s of {seconds_allowed:g}, {gigabytes:5.2f} GB of {gigabytes_allowed:g}: "
                f"{'holds' if good else 'FAILS'} ({said})"
            )


if __name__ == "__main__":
    main()
