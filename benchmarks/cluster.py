"""The flow of units on a simulated cluster, as ratios: several raylets on this machine, sleeping stages.

Three balanced stages, each on a resource of its own: wall time from the first ready worker's commit against the ideal
pipelined schedule; how many units were fetched when encoding began; the most units in flight.

    python benchmarks/cluster.py [--units 40] [--clip-seconds 0.25]
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

from pipelines.cluster.backend import RayBackend
from pipelines.recipe import make_recipe
from pipelines.run.commits import Commit
from pipelines.run.job import make_run
from pipelines.run.pipeline import LogListener, run_pipeline
from pipelines.schedule import Schedule
from tests.support.fake_stages import rows
from tests.support.simulated_cluster import Sleep, simulated_cluster
from uniform.spec import TOY

UNIT_CLIPS = 4
MOST_IN_FLIGHT = 4
MOST_OVER_IDEAL = 1.25
MOST_FETCHED_FIRST = 0.05
STAGES = ("fetch", "clip", "encode")


class Times(LogListener):
    """When each unit was committed, in seconds."""

    def __init__(self) -> None:
        self.commits: list[tuple[float, Commit]] = []

    def unit_done(self, commit: Commit) -> None:
        """See Listener."""
        self.commits.append((time.monotonic(), commit))

    def most_in_flight(self) -> int:
        """Units with a commit of the first stage and none of the last, at most."""
        most = now = 0
        for _, commit in self.commits:
            now += (commit.stage == STAGES[0]) - (commit.stage == STAGES[-1])
            most = max(most, now)
        return most


def print_claim(what: str, value: float, limit: float) -> None:
    """One line per claim."""
    print(f"{what}: {value:.3f}, limit {limit}: {'holds' if value <= limit else 'FAILS'}", flush=True)


def main() -> None:
    """The pipelined run, after a short one that starts the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=40)
    parser.add_argument("--clip-seconds", type=float, default=0.25)
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    pause_s = chosen.clip_seconds
    stages = [
        ("fetch", Sleep(name="fetch", pause_s=pause_s, waits=True)),
        ("clip", Sleep(name="clip", pause_s=pause_s)),
        ("encode", Sleep(name="encode", pause_s=pause_s, device="auto")),
    ]
    limits = Schedule(max_workers=dict.fromkeys(STAGES, 1), max_units_in_flight=MOST_IN_FLIGHT)
    recipe = make_recipe("balanced", TOY, UNIT_CLIPS, stages, limits)
    unit_s = UNIT_CLIPS * pause_s
    with tempfile.TemporaryDirectory() as folder, simulated_cluster((3, 1)) as cluster:
        times = Times()
        with RayBackend(address=cluster.address) as backend:
            run_pipeline(make_run(rows(2 * UNIT_CLIPS), recipe, Path(folder) / "warm"), backend, LogListener())
            began = time.monotonic()
            run_pipeline(make_run(rows(chosen.units * UNIT_CLIPS), recipe, Path(folder) / "run"), backend, times)
            wall_s = time.monotonic() - began
    ideal_s = (chosen.units + len(STAGES) - 1) * unit_s
    encode_ended = next(at for at, commit in times.commits if commit.stage == "encode")
    fetched = sum(commit.stage == "fetch" and at <= encode_ended - unit_s for at, commit in times.commits)
    print_claim("wall time against the ideal pipelined schedule", wall_s / ideal_s, MOST_OVER_IDEAL)
    print_claim("share of units fetched when encoding begins", fetched / chosen.units, MOST_FETCHED_FIRST)
    print_claim("most units in flight", times.most_in_flight(), MOST_IN_FLIGHT)
    print(f"  {wall_s:.1f} s, ideal {ideal_s:.1f} s, stage after stage {len(STAGES) * chosen.units * unit_s:.1f} s")


if __name__ == "__main__":
    main()
