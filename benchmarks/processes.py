"""Two gloo processes against one on the same run: the same losses, and how many times as many clips a second.

    python benchmarks/processes.py [--steps 40] [--parallel ddp]

The toy preset on random shards, one thread for each process, so that two processes have two cores. The runs follow
one another, twice each; the fastest window of each counts. By the clock, work beside it on the machine lowers the
ratio. By processor time of the first process, waiting for the other costs nothing: what free cores reach at best.
Exits with 1 where a loss differs by more than 1e-5 of itself.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.many_processes import run_in_processes
from tests.support.shard_folder import write_shard_folder
from uniform.training.reporting.observer import Progress
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.settings.presets import load_config
from uniform.training.trainer import train

WINDOW = 5
WANTED = 1e-5


class Processor:
    """Writes down the processor time of the first process after each window."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def started(self, summary: Mapping[str, Any]) -> None:
        self.path.touch()

    def progressed(self, progress: Progress) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.process_time()}\n")

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def saved(self, path: Path) -> None:
        pass

    def ended(self, step: int, why: str) -> None:
        pass


def run(root: Path, out: str, steps: int, parallel: str) -> None:
    """One process of a run."""
    data = f'data.sources=[{{folder="{root / "shards"}"}}]'
    quiet = ("log.tensorboard=false", f"log.every={WINDOW}", "checkpoint.every=100000", "compute.device=cpu")
    words = (data, f'out="{root / out}"', f"steps={steps}", f"compute.parallel={parallel}", "compute.threads=1")
    train(load_config("toy", [*quiet, *words]), [Processor(root / f"{out}.seconds")])


def main() -> None:
    """Print losses' difference and the ratio of speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    options = parser.parse_args()
    speeds, costs = {1: 0.0, 2: 0.0}, {1: float("inf"), 2: float("inf")}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_shard_folder(root / "shards", clips=256)
        for turn in range(2):
            for count in speeds:
                out = f"{count}-processes-{turn}"
                run_in_processes(count, run, root, out, options.steps, options.parallel)
                windows = read_metrics_log(root / out, "window")[1:]
                speeds[count] = max(speeds[count], *(line["clips_per_s"] for line in windows))
                marks = [float(line) for line in (root / f"{out}.seconds").read_text().split()]
                costs[count] = min(costs[count], *(after - before for before, after in pairwise(marks)))
        one, two = (
            [line["loss"] for line in read_metrics_log(root / f"{count}-processes-0", "step")] for count in speeds
        )
    worst = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, toy preset")
    print(f"  largest difference of a loss over {options.steps} steps: {worst:.1e} of it (wanted {WANTED:.0e} or less)")
    for count, speed in speeds.items():
        print(f"  {count} processes, {options.parallel if count > 1 else 'alone'}: {speed:.1f} clips/s")
    print(f"  throughput ratio: {speeds[2] / speeds[1]:.2f} by the clock, {costs[1] / costs[2]:.2f} by processor time")
    if worst > WANTED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
