"""Everything that is known of one clip: what its listing said, what each stage made of it and when, where it is now."""

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


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one stage did to the clip in one unit."""

    unit: int
    origin: str
    """Why the unit exists: pilot, first, added, or retry:<code>."""
    stage: str
    code: str
    reason: str
    attempt: int
    counts: bool
    """False for an attempt that a later one replaced, and for one whose process died before it was committed."""
    started: datetime
    seconds: float
    worker: str
    output: str | None


@dataclass(frozen=True, kw_only=True)
class ClipHistory:
    """One clip's."""

    row: Row
    steps: Sequence[Step]
    source: str | None
    """File of the source on this disk; None where no stage had it."""
    source_bytes: int | None
    shard: str | None
    """The finished shard that holds it; None where the index does not name it."""
    ending: str
    """One sentence: where it stands now."""


def story(folder: RunFolder, stages: Sequence[str], units: Units, clip_id: str) -> ClipHistory:
    """Everything that happened to a clip, in order.

    Raises: PipelineError for a clip that the manifest does not name, or that was never planned.
    """
    found = units.clips.filter(pc.equal(units.clips["clip_id"], clip_id))
    if not found.num_rows:
        raise PipelineError(f"{folder.path}: no clip '{clip_id}' was planned; ids are those of manifest.parquet")
    (row,) = rows_of(found)
    planned = units.plan.filter(pc.equal(units.plan["clip_id"], clip_id))["unit"].to_pylist()
    steps: list[Step] = []
    for unit in planned:
        facts = {"unit": unit, "origin": units.origin(unit)}
        for stage in stages:
            steps += _steps(folder, stage, clip_id, facts, last=unit == planned[-1])
    source, size = _source(folder, stages, planned, clip_id)
    shard = _shard(folder, clip_id)
    return ClipHistory(
        row=row,
        steps=steps,
        source=source,
        source_bytes=size,
        shard=shard,
        ending=_ending(planned, [step for step in steps if step.counts], stages, shard),
    )


def _steps(folder: RunFolder, stage: str, clip_id: str, facts: dict[str, Any], *, last: bool) -> list[Step]:
    """Every attempt of a stage at a unit, as far as the clip came; `last`: no later unit took the clip over."""
    commit = read_commit(folder.commit(stage, facts["unit"]))
    counting = folder.inside(commit.ledger) if commit else None
    columns = ["clip_id", "code", "reason", "attempt", "started", "seconds", "worker", "output"]
    steps: list[Step] = []
    for part in folder.ledger_parts(stage, facts["unit"]):
        table = read_part(part, columns)
        rows = table.filter(pc.equal(table["clip_id"], clip_id)).select(columns[1:]).to_pylist()
        steps += [Step(**facts, **told, stage=stage, counts=last and part == counting) for told in rows]
    return steps


def _source(
    folder: RunFolder, stages: Sequence[str], planned: Sequence[int], clip_id: str
) -> tuple[str | None, int | None]:
    for unit in reversed(planned):
        for stage in stages:
            path = _table(folder, read_commit(folder.commit(stage, unit)))
            if path is None or not set(SOURCE_COLUMNS) <= set(pq.read_schema(path).names):
                continue
            rows = pq.read_table(path, columns=list(SOURCE_COLUMNS), filters=[("clip_id", "=", clip_id)]).to_pylist()
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
        folder.index, columns=["video"], filters=[("clip_id", "=", clip_id)]
    ).to_pylist()
    return str(rows[0]["video"]["shard"]) if rows else None


def _ending(planned: Sequence[int], counting: Sequence[Step], stages: Sequence[str], shard: str | None) -> str:
    if not planned:
        return "not planned yet: the run, or its --limit or pilot, has not come to it"
    if shard is not None:
        return f"finished: in {shard}"
    last = next((step for step in reversed(counting) if step.unit == planned[-1]), None)
    if last is None:
        return f"waits for the stage '{stages[0]}' in unit {planned[-1]}"
    if last.code != OK:
        policy = CODES[last.code].policy
        remedy = CODES[last.code].remedy
        again = f"may be asked again ({remedy})" if remedy else "final"
        return f"left at '{last.stage}' as {last.code}, {policy}: {CODES[last.code].meaning}; {again}"
    following = stages.index(last.stage) + 1
    if following < len(stages):
        return f"kept so far, waits for the stage '{stages[following]}'"
    return "kept by every stage; the index is not closed yet"
