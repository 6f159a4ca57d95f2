"""Tables of clips as sets: what two of them share, and one without what overlaps another."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.manifest.identity import source_keys
from pipelines.manifest.table import SCHEMA, read_rows
from uniform.errors import ManifestError
from uniform.latents.format import INDEX_NAME, ids_digest

MANIFEST_NAME = "manifest.parquet"


@dataclass(frozen=True)
class Difference:
    """Two sets of clip ids, compared."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    both: tuple[str, ...]
    digest_first: str
    digest_second: str
    digest_both: str


def read_clip_ids(path: Path) -> list[str]:
    """The ids of a set of clips.

    Args:
        path: a run's folder (the clips of its finished index), its index.parquet, or a table with a column clip_id.
    Raises: ManifestError where there is no such table.
    """
    table = path / INDEX_NAME if path.is_dir() else path
    if path.is_dir() and not table.exists():
        raise ManifestError(
            f"{path}: no {INDEX_NAME}, so nothing is finished there; run it to its end: uniform pipeline run {path}"
        )
    try:
        column = pq.read_table(table, columns=["clip_id"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ManifestError(f"{table}: not a table with a column clip_id ({error})") from error
    if "clip_id" not in column.column_names or column["clip_id"].null_count:
        raise ManifestError(f"{table}: no column clip_id, or one with gaps; give a manifest.parquet or index.parquet")
    return [str(clip_id) for clip_id in column["clip_id"].to_pylist()]


def rows_of(paths: Sequence[Path], clip_ids: Iterable[str]) -> list[Row]:
    """The manifest rows of clips, from the first of the sets that has any: itself a table of clips, or beside one.

    Raises: ManifestError where no set has manifest rows, or the first that has some lacks a clip.
    """
    wanted = set(clip_ids)
    for path in paths:
        table = path if path.is_file() and pq.read_schema(path).equals(SCHEMA) else _beside(path)
        if table is not None:
            rows = [row for row in read_rows(table) if row.clip_id in wanted]
            if len(rows) != len(wanted):
                raise ManifestError(
                    f"{table}: {len(wanted) - len(rows)} of the clips are not in it; give another table"
                )
            return rows
    names = " nor ".join(str(path) for path in paths)
    raise ManifestError(
        f"neither {names} has the rows of its clips. Give a manifest.parquet, or an index.parquet that lies beside one."
    )


def _beside(path: Path) -> Path | None:
    """The manifest of the run that `path` is, or that it lies in."""
    table = (path if path.is_dir() else path.parent) / MANIFEST_NAME
    return table if table.is_file() else None


def compare(first: Iterable[str], second: Iterable[str]) -> Difference:
    """What two lists of clip ids share; each part is sorted."""
    a, b = set(first), set(second)
    return Difference(
        only_first=tuple(sorted(a - b)),
        only_second=tuple(sorted(b - a)),
        both=tuple(sorted(a & b)),
        digest_first=ids_digest(a),
        digest_second=ids_digest(b),
        digest_both=ids_digest(a & b),
    )


@dataclass(frozen=True)
class Shared:
    """Two groups of clips, each a dataset's split, that show the same times of the same sources."""

    first: tuple[str, str]
    """(dataset, split)."""
    second: tuple[str, str]
    first_clips: int
    """Clips of the first group that overlap one of the second."""
    second_clips: int

    @property
    def splits_overlap(self) -> bool:
        """Whether one of the two is for training and the other is not."""
        return (self.first[1] == "train") != (self.second[1] == "train")


def shared_between(rows: Sequence[Row]) -> list[Shared]:
    """Every two groups of different datasets that overlap, the largest overlap first."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.dataset, row.split].append(row)
    found = [
        Shared(a, b, sum(overlapping(groups[a], groups[b])), sum(overlapping(groups[b], groups[a])))
        for a, b in itertools.combinations(sorted(groups), 2)
        if a[0] != b[0]
    ]
    return sorted((one for one in found if one.first_clips), key=lambda one: -one.first_clips)


def overlapping(rows: Sequence[Row], others: Iterable[Row]) -> list[bool]:
    """For each of `rows`: whether a clip of `others` shows a part of the same span of the same source."""
    spans: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for other in others:
        for key in source_keys(other):
            spans[key].append((other.start_ms, other.end_ms))
    return [
        any(start < row.end_ms and row.start_ms < end for key in source_keys(row) for start, end in spans.get(key, ()))
        for row in rows
    ]
