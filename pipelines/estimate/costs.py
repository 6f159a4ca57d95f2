"""The cost of a run so far: clips, seconds and bytes per stage and unit, from commit markers and ledgers.

Predictions and comparisons both use these figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipelines.run.commits import Commit
from pipelines.run.folder import RunFolder
from pipelines.run.status import live_codes, unit_commits
from pipelines.run.units import Units
from uniform.errors import PipelineError
from uniform.tables import LOCAL, local_name

SOURCE_COLUMNS = ("source", "source_bytes")
"""Columns of the table of a stage that fetches sources."""
Address = tuple[str, str]
"""Kind and address of a source."""


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """The cost of one unit in one stage."""

    planned: int
    """Clips of the unit, whether they reached the stage or not, without those that a later unit took over."""
    sources: int
    """Sources of these clips that are new in this unit."""
    kept: int
    seconds: float
    """Time of the worker."""
    bytes: int
    """Size of the artifact, and of the sources that the unit fetched."""
    ended: float | None
    """Seconds since 1970."""
    worker: str


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """The cost of all finished units of one stage."""

    stage: str
    fetches: bool
    """Whether the stage fetches sources: its cost then grows with the sources, not with the clips."""
    units: Sequence[UnitCost]

    @property
    def kept(self) -> int:
        """Clips that the stage kept."""
        return sum(unit.kept for unit in self.units)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(unit.bytes for unit in self.units)

    @property
    def worker_s(self) -> float:
        """Seconds of all workers together."""
        return sum(unit.seconds for unit in self.units)

    @property
    def workers(self) -> int:
        """Processes that shared the work, 1 or more."""
        return max(1, len({unit.worker for unit in self.units}))

    @property
    def busy_s(self) -> float:
        """Time during which at least one unit was in work, without the pauses between runs."""
        return busy_s((unit.ended - unit.seconds, unit.ended) for unit in self.units if unit.ended is not None)


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time spans (begin, end)."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def stage_costs(folder: RunFolder, stages: Sequence[str], units: Units) -> list[StageCost]:
    """The cost of each stage. Raises PipelineError where a file of a committed unit is damaged."""
    addresses = addresses_of(units)
    return [_stage_cost(folder, stage, units, addresses) for stage in stages]


def addresses_of(units: Units) -> dict[str, Address]:
    """Clip id -> kind and address of its source."""
    columns = (units.clips[name].to_pylist() for name in ("clip_id", "source_kind", "source_uri"))
    return {clip_id: (kind, uri) for clip_id, kind, uri in zip(*columns, strict=True)}


def _stage_cost(folder: RunFolder, stage: str, units: Units, addresses: dict[str, Address]) -> StageCost:
    found: list[UnitCost] = []
    seen: set[Address] = set()
    files: set[str] = set()
    fetches = False
    for commit in unit_commits(folder, stage, units):
        superseded = units.superseded.get(commit.unit, frozenset())
        planned = [clip_id for clip_id in units.ids(commit.unit) if clip_id not in superseded]
        new = {addresses[clip_id] for clip_id in planned} - seen
        seen |= new
        source_bytes = _source_bytes(folder, commit, files, addresses)
        fetches = fetches or source_bytes is not None
        found.append(
            UnitCost(
                planned=len(planned),
                sources=len(new),
                kept=live_codes(folder, commit, units).get("ok", 0),
                seconds=commit.seconds,
                bytes=commit.bytes + (source_bytes or 0),
                ended=commit.ended,
                worker=commit.worker,
            )
        )
    return StageCost(stage=stage, fetches=fetches, units=found)


def _source_bytes(folder: RunFolder, commit: Commit, files: set[str], addresses: dict[str, Address]) -> int | None:
    """Bytes of the sources that the unit was the first to fetch; None for a stage that fetches none.

    Local files are not counted.
    """
    if commit.artifact is None or not commit.artifact.endswith(".parquet"):
        return None
    path = folder.inside(commit.artifact)
    try:
        names = pq.read_schema(local_name(path), filesystem=LOCAL).names
        if not set(SOURCE_COLUMNS) <= set(names):
            return None
        table = pq.read_table(
            local_name(path), columns=["clip_id", *SOURCE_COLUMNS], partitioning=None, filesystem=LOCAL
        )
    except OSError as error:
        raise PipelineError(f"{path}: results of a committed unit cannot be read ({error}); run again") from error
    total = 0
    for clip_id, source, size in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        if addresses[clip_id][0] != "local" and source not in files:
            files.add(source)
            total += size
    return total
