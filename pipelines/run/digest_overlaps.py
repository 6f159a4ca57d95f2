"""Split overlaps that only the bytes show: sources of different names with one SHA-256, in two splits."""

from collections.abc import Iterable

import pyarrow as pa

from pipelines.clip import Row
from pipelines.manifest.identity import source_keys
from pipelines.manifest.overlaps import Overlap, overlaps
from pipelines.recipe import StageStep
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units
from uniform.errors import ShardError
from uniform.tables import read_parquet

DIGEST = "source_sha256"
EXAMPLES = 3


def digest_overlap_warnings(folder: RunFolder, step: StageStep, units: Units) -> list[str]:
    """At most one line: clips whose sources have the same bytes, share time, and are in two splits.

    Empty for a stage that gives no digests. Raises ShardError where an artifact of the stage cannot be read.
    """
    if DIGEST not in step.stage.gives:
        return []
    rows: list[Row] = []
    digests: list[str | None] = []
    for unit in range(len(units)):
        found = _digests(folder, step, unit)
        for row in units.rows(unit):
            if row.clip_id in found:
                rows.append(row)
                digests.append(found[row.clip_id])
    pairs = [pair for pair in overlaps(rows, digests) if _is_new(rows, pair)]
    return [_warning(step.name, rows, pairs)] if pairs else []


def _digests(folder: RunFolder, step: StageStep, unit: int) -> dict[str, str]:
    path = folder.artifact(step.stage.store, unit)
    if path is None:
        return {}
    fix = f"Remove it and run again: {path}"
    table: pa.Table = read_parquet(path, ShardError, "the artifact of a committed unit", fix=fix)
    if DIGEST not in table.column_names:
        return {}
    pairs = zip(table["clip_id"].to_pylist(), table[DIGEST].to_pylist(), strict=True)
    return {clip_id: digest for clip_id, digest in pairs if digest}


def _is_new(rows: list[Row], pair: Overlap) -> bool:
    """Whether the two are in different splits, and their names do not show that they are one source."""
    first, second = rows[pair.first], rows[pair.second]
    return first.split != second.split and not set(source_keys(first)) & set(source_keys(second))


def _warning(stage: str, rows: list[Row], pairs: Iterable[Overlap]) -> str:
    pairs = list(pairs)
    shown = "; ".join(f"{_named(rows[pair.first])} and {_named(rows[pair.second])}" for pair in pairs[:EXAMPLES])
    more = f"; and {len(pairs) - EXAMPLES:,} more" if len(pairs) > EXAMPLES else ""
    fix = "Remove one of each from the listing, or leave the clips of train out: uniform manifest build --exclude TABLE"
    return f"{stage}: {len(pairs):,} split overlaps: sources with the same bytes in two splits: {shown}{more}. {fix}"


def _named(row: Row) -> str:
    return f"{row.source_id!r} at {row.start_ms / 1000:g} s in '{row.split}'"
