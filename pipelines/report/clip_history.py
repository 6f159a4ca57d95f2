"""The history of one clip: its manifest row, the result of each stage and attempt, and its status now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.codes import CODES
from pipelines.estimate.costs import SOURCE_COLUMNS
from pipelines.manifest.table import rows_of
from pipelines.run.commits import Commit, read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import OK, read_part
from pipelines.run.units import Units
from uniform.errors import PipelineError
from uniform.tables import LOCAL, local_name


@dataclass(frozen=True, kw_only=True)
class Step:
    """The result of one attempt of one stage at the clip."""

    unit: int
    origin: str
    """Why the unit was planned: pilot, first, added, or retry:<code>."""
    stage: str
    code: str
    reason: str
    attempt: int
    counts: bool
    """False for an attempt that a later one replaced, and for one that was not committed."""
    started: datetime
    seconds: float
    worker: str
    output: str | None


@dataclass(frozen=True, kw_only=True)
class ClipHistory:
    """Everything recorded about one clip."""

    row: Row
    steps: Sequence[Step]
    source: str | None
    """Path of the fetched source; None where no stage fetched it."""
    source_bytes: int | None
    shard: str | None
    """The shard that holds the clip; None where the index does not list it."""
    status: str
    """One sentence: kept, dropped or waiting, and where."""


def read_clip_history(folder: RunFolder, stages: Sequence[str], units: Units, clip_id: str) -> ClipHistory:
    """Read the history of a clip, its steps in order.

    Raises: PipelineError for a clip that is not in the manifest, or that was never planned.
    """
    found = units.clips.filter(pc.equal(units.clips["clip_id"], clip_id))
    if not found.num_rows:
        raise PipelineError(f"{folder.path}: no clip '{clip_id}' was planned; ids are those of manifest.parquet")
    (row,) = rows_of(found)
    planned = units.plan.filter(pc.equal(units.plan["clip_id"], clip_id))["unit"].to_pylist()
    steps: list[Step] = []
    for unit in planned:
        for stage in stages:
            steps += _steps(folder, stage, clip_id, unit, units.origin(unit), last=unit == planned[-1])
    source, size = _source(folder, stages, planned, clip_id)
    shard = _shard(folder, clip_id)
    return ClipHistory(
        row=row,
        steps=steps,
        source=source,
        source_bytes=size,
        shard=shard,
        status=_status(planned, [step for step in steps if step.counts], stages, shard),
    )


def _steps(folder: RunFolder, stage: str, clip_id: str, unit: int, origin: str, *, last: bool) -> list[Step]:
    """Every attempt of a stage at the clip in one unit; `last`: no later unit took the clip over."""
    commit = read_commit(folder.commit(stage, unit))
    counting = folder.inside(commit.ledger) if commit else None
    columns = ["clip_id", "code", "reason", "attempt", "started", "seconds", "worker", "output"]
    steps: list[Step] = []
    for part in folder.ledger_parts(stage, unit):
        table = read_part(part, columns)
        rows = table.filter(pc.equal(table["clip_id"], clip_id)).select(columns[1:]).to_pylist()
        counts = last and part == counting
        steps += [Step(unit=unit, origin=origin, stage=stage, counts=counts, **row) for row in rows]
    return steps


def _source(
    folder: RunFolder, stages: Sequence[str], planned: Sequence[int], clip_id: str
) -> tuple[str | None, int | None]:
    for unit in reversed(planned):
        for stage in stages:
            path = _table(folder, read_commit(folder.commit(stage, unit)))
            if path is None or not set(SOURCE_COLUMNS) <= set(pq.read_schema(local_name(path), filesystem=LOCAL).names):
                continue
            rows = pq.read_table(
                local_name(path), columns=list(SOURCE_COLUMNS), filters=[("clip_id", "=", clip_id)], filesystem=LOCAL
            ).to_pylist()
            if rows:
                return str(rows[0]["source"]), int(rows[0]["source_bytes"])
    return None, None


def _table(folder: RunFolder, commit: Commit | None) -> Path | None:
    if commit is None or commit.artifact is None or not commit.artifact.endswith(".parquet"):
        return None
    return folder.inside(commit.artifact)


def _shard(folder: RunFolder, clip_id: str) -> str | None:
    if not folder.index.exists():
        return None
    rows: list[dict[str, Any]] = pq.read_table(
        local_name(folder.index), columns=["video"], filters=[("clip_id", "=", clip_id)], filesystem=LOCAL
    ).to_pylist()
    return str(rows[0]["video"]["shard"]) if rows else None


def _status(planned: Sequence[int], counting: Sequence[Step], stages: Sequence[str], shard: str | None) -> str:
    if not planned:
        return "not planned yet: outside the --limit or the pilot so far"
    if shard is not None:
        return f"finished: in {shard}"
    last = next((step for step in reversed(counting) if step.unit == planned[-1]), None)
    if last is None:
        return f"waiting for the stage '{stages[0]}' in unit {planned[-1]}"
    if last.code != OK:
        code = CODES[last.code]
        again = f"to try again: {code.remedy}" if code.remedy else "final"
        return f"dropped at '{last.stage}' as {last.code} ({code.policy}): {code.meaning}; {again}"
    following = stages.index(last.stage) + 1
    if following < len(stages):
        return f"kept so far, waiting for the stage '{stages[following]}'"
    return "kept by every stage; the index is not written yet"
