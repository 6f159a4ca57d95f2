"""The run directory: the path of everything that a run keeps.

run.json                          recipe, spec, stages, roots
manifest.parquet  units.parquet   the clips, and how they are cut into units
clips-000017.tar  media/000017.parquet  latents-000017.tar ...          what the stages made
members/<stage>/000017.parquet    where each member is inside the stage's tar
ledger/<stage>/000017-01.parquet  one row per clip, one part per attempt
commits/<stage>/000017.json       written last: without it the files above do not count
index.parquet  card.json          the finished shards
prediction.json                   the estimate
unlocked.json                     when a retry last lifted the refusals of a policy
.lock                             held by the run that writes
"""

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.disk import writing_to
from pipelines.stage import Store
from uniform.atomic import TEMPORARY_PREFIX, remove_if_dead
from uniform.errors import PipelineError
from uniform.latents.format import CARD_NAME, INDEX_NAME, shard_name
from uniform.renamed import POLICIES, current

LOCK_NAME = ".lock"
SOURCES = "sources"
"""Fetched sources; see `pipelines.fetching.store`."""
_PART = re.compile(r"(\d{6})-(\d{2,})\.parquet")


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. No method but `locked` creates anything."""

    path: Path

    @property
    def run(self) -> Path:
        """Recipe, spec, stages and roots. See `pipelines.run.record`."""
        return self.path / "run.json"

    @property
    def manifest(self) -> Path:
        """The clips."""
        return self.path / "manifest.parquet"

    @property
    def units(self) -> Path:
        """The plan: unit and clip id, in order."""
        return self.path / "units.parquet"

    @property
    def index(self) -> Path:
        """The finished shards, one row per clip."""
        return self.path / INDEX_NAME

    @property
    def card(self) -> Path:
        """What the finished shards are."""
        return self.path / CARD_NAME

    @property
    def prediction(self) -> Path:
        """The estimate of the full run."""
        return self.path / "prediction.json"

    @property
    def unlocked(self) -> Path:
        """When a retry last lifted earlier refusals, by policy."""
        return self.path / "unlocked.json"

    def unblocked_at_s(self) -> dict[str, float]:
        """Policy -> seconds since 1970: refusals of that policy from before it do not count any more."""
        if not self.unlocked.exists():
            return {}
        found: dict[str, float] = json.loads(self.unlocked.read_bytes())
        return {current(policy, POLICIES): float(time_s) for policy, time_s in found.items()}

    def artifact(self, store: Store, unit: int) -> Path | None:
        """File of a stage's results for a unit; None for a stage that only checks."""
        if store.kind == "tar":
            return self.path / shard_name(store.name, unit)
        if store.kind == "table":
            return self.path / store.name / f"{unit:06d}.parquet"
        return None

    def members(self, stage: str, unit: int) -> Path:
        """Where each member is inside the tar that `stage` made of `unit`."""
        return self.path / "members" / stage / f"{unit:06d}.parquet"

    def ledger(self, stage: str, unit: int, attempt: int) -> Path:
        """The ledger part of one attempt."""
        return self.path / "ledger" / stage / f"{unit:06d}-{attempt:02d}.parquet"

    def ledger_parts(self, stage: str, unit: int) -> list[Path]:
        """The ledger parts of every attempt that ended, the first attempt first."""
        return [path for _, path in self._attempts(stage, unit)]

    def next_attempt(self, stage: str, unit: int) -> int:
        """1 for the first attempt; one more than the highest part that is there."""
        return max((attempt for attempt, _ in self._attempts(stage, unit)), default=0) + 1

    def _attempts(self, stage: str, unit: int) -> list[tuple[int, Path]]:
        parts = (self.path / "ledger" / stage).glob(f"{unit:06d}-*.parquet")
        named = ((_PART.fullmatch(part.name), part) for part in parts)
        return sorted((int(match[2]), part) for match, part in named if match)

    def commit(self, stage: str, unit: int) -> Path:
        """The marker that makes a unit's results count."""
        return self.path / "commits" / stage / f"{unit:06d}.json"

    def inside(self, relative: str) -> Path:
        """A path read from a file of this folder. Raises PipelineError where it leads outside."""
        path = self.path / relative
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise PipelineError(f"{self.path}: '{relative}' leads outside the run directory; a file in it was altered")
        return path

    def sweep(self) -> int:
        """Remove temporary files of processes that died. Returns the number of files removed.

        Fetched sources are left out: other runs can share them, and they have locks of their own.
        """
        removed = 0
        for folder, folders, names in os.walk(self.path):
            if Path(folder) == self.path and SOURCES in folders:
                folders.remove(SOURCES)
            for name in names:
                if name.startswith(TEMPORARY_PREFIX) and remove_if_dead(Path(folder) / name):
                    removed += 1
        return removed

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run directory for this process: two runs never write to one directory.

        The lock is the kernel's and ends with the process, however it ends: a lock file left behind blocks nobody.
        Raises: PipelineError that names the holder.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK_NAME).open("a+")
        with file:
            try:
                # A record lock, not flock: a child process must not inherit it and outlive the run with it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise PipelineError(
                    f"{self.path}: another run is writing to this folder ({file.read().strip() or 'unknown process'}). "
                    f"Wait for it or stop it, or choose another --out."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
