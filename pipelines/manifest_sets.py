"""Tables of clips as sets: what two of them share, and one without what overlaps another."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Row
from uniform.errors import ManifestError
from uniform.latents.format import ids_digest


@dataclass(frozen=True)
class Difference:
    """Two sets of clip ids, compared."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    both: tuple[str, ...]
    digest_first: str
    digest_second: str


def read_clip_ids(path: Path) -> list[str]:
    """The `clip_id` column of a manifest table, an index of shards or a ledger. Raises ManifestError without one."""
    try:
        column = pq.read_table(path, columns=["clip_id"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ManifestError(f"{path}: not a table with a column clip_id ({error})") from error
    if "clip_id" not in column.column_names or column["clip_id"].null_count:
        raise ManifestError(f"{path}: no column clip_id, or one with gaps; give a manifest.parquet or index.parquet")
    return [str(clip_id) for clip_id in column["clip_id"].to_pylist()]


def compare(first: Iterable[str], second: Iterable[str]) -> Difference:
    """What two lists of clip ids share; each part is sorted."""
    a, b = set(first), set(second)
    return Difference(
        only_first=tuple(sorted(a - b)),
        only_second=tuple(sorted(b - a)),
        both=tuple(sorted(a & b)),
        digest_first=ids_digest(a),
        digest_second=ids_digest(b),
    )


def overlapping(rows: Sequence[Row], others: Iterable[Row]) -> list[bool]:
    """For each of `rows`: whether a clip of `others` shows a part of the same span of the same source."""
    spans: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for other in others:
        spans[other.source_id].append((other.start_ms, other.start_ms + other.duration_ms))
    return [
        any(
            start < row.start_ms + row.duration_ms and row.start_ms < end for start, end in spans.get(row.source_id, ())
        )
        for row in rows
    ]
