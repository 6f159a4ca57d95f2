"""What Ray costs and what a second worker brings, side by side in one run. Ray's start and the workers' are left out.

Ray against inline: 2,000 tiny clips through three stages that each take about 4 ms of arithmetic per clip, with one
worker. Two workers against one: the clip stage over generated media files. The rounds take turns, so that a busy
machine hits all of them, and the fastest of each counts.

    python benchmarks/engine_overhead.py [--clips 2000] [--media 96] [--rounds 3]
"""

import argparse
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipelines.clip import Clip, Row
from pipelines.cluster.backend import RayBackend
from pipelines.recipe import make_recipe
from pipelines.run.job import Run, make_run, new_run
from pipelines.run.pipeline import Backend, InlineBackend, LogListener, run_pipeline
from pipelines.stage import Context, Resources, Store, Work
from uniform.spec import TOY, Spec
from uniform.synthetic.write import write_world

MOST_OVERHEAD = 1.15
LEAST_SPEED_UP = 1.7
WORK_BYTES = 6 * 2**20
"""Hashed per clip and stage: about 4 ms."""
UNIT_CLIPS = 50


@dataclass(frozen=True, kw_only=True)
class Hash:
    """Hashes some megabytes per clip and keeps a few hundred bytes of it."""

    needs = ()
    resources = Resources()

    number: int = 0

    @property
    def gives(self) -> tuple[str, ...]:
        """One field."""
        return (f"bin{self.number}",)

    @property
    def store(self) -> Store:
        """A tar."""
        return Store("tar", f"hash{self.number}")

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Its number."""
        return {"number": self.number}

    def open(self, context: Context) -> Work:
        """The bytes to hash."""
        block = bytes(WORK_BYTES)
        return lambda clips: self._all(clips, block)

    def _all(self, clips: Iterator[Clip], block: bytes) -> Iterator[Clip]:
        for clip in clips:
            digest = hashlib.sha256(block + clip.row.clip_id.encode()).digest()
            yield clip.with_fields(**{f"bin{self.number}": digest * 12})


def hash_run(out: Path, clips: int) -> Run:
    """Tiny clips through three stages."""
    rows = [
        Row(
            clip_id=hashlib.sha256(str(n).encode()).hexdigest()[:16],
            dataset="tiny",
            split="train",
            source_kind="local",
            source_id=str(n),
            source_uri=str(n),
            start_ms=0,
            duration_ms=2000,
        )
        for n in range(clips)
    ]
    stages = [(f"hash-{number}", Hash(number=number)) for number in range(3)]
    return make_run(rows, make_recipe("tiny", TOY, UNIT_CLIPS, stages), out)


def seconds(run: Callable[[Path], Run], backend: Backend, folder: Path, **options: Any) -> float:
    """One run into a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    made = run(folder)
    began = time.perf_counter()
    run_pipeline(made, backend, LogListener(), **options)
    return time.perf_counter() - began


def overhead(folder: Path, clips: int, rounds: int) -> None:
    """Ray with one worker against this process."""
    with RayBackend(workers=1) as backend:
        seconds(lambda out: hash_run(out, 10), backend, folder / "warm")
        seconds(lambda out: hash_run(out, 10), InlineBackend(), folder / "warm")
        pairs = [
            (
                seconds(lambda out: hash_run(out, clips), InlineBackend(), folder / "inline"),
                seconds(lambda out: hash_run(out, clips), backend, folder / "ray"),
            )
            for _ in range(rounds)
        ]
    inline, on_ray = (min(times) for times in zip(*pairs, strict=True))
    ratio = on_ray / inline
    print_claim(f"Ray against inline, {clips} clips x 3 stages", ratio, MOST_OVERHEAD, ratio <= MOST_OVERHEAD)
    print(f"  inline {inline:.2f} s, Ray {on_ray:.2f} s; all rounds: {pairs}")


def speed_up(folder: Path, media: int, rounds: int) -> None:
    """The clip stage with two workers against one."""
    manifest = write_world("w1", TOY, folder / "world", train_clips=media, test_clips=0, seed=0)

    def run(out: Path) -> Run:
        made = new_run([manifest], "toy", out)
        run_pipeline(made, InlineBackend(), LogListener(), until="fetch_media")
        return made

    pairs = []
    # Both keep their workers between rounds, so Ray must grant three; never more than two work at a time.
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    with RayBackend(workers=1) as one, RayBackend(workers=2) as two:
        for backend in (one, two):
            seconds(run, backend, folder / "warm", until="clip_media")
        for _ in range(rounds):
            alone = seconds(run, one, folder / "one", until="clip_media")
            pairs.append((alone, seconds(run, two, folder / "two", until="clip_media")))
    ray.shutdown()
    alone, together = (min(times) for times in zip(*pairs, strict=True))
    ratio = alone / together
    print_claim(f"2 workers against 1, clip stage, {media} clips", ratio, LEAST_SPEED_UP, ratio >= LEAST_SPEED_UP)
    print(f"  1 worker {alone:.2f} s, 2 workers {together:.2f} s; all rounds: {pairs}")


def print_claim(what: str, ratio: float, limit: float, good: bool) -> None:
    """One line per claim."""
    print(f"{what}: {ratio:.3f}, limit {limit}: {'holds' if good else 'FAILS'}")


def main() -> None:
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--media", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as temporary:
        overhead(Path(temporary), chosen.clips, chosen.rounds)
        speed_up(Path(temporary), chosen.media, chosen.rounds)


if __name__ == "__main__":
    main()
