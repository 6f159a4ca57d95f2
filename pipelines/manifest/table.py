"""Manifest rows as an Arrow table, and back: the columns of manifest.parquet."""

import sys
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from pipelines.clip import Row

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source_kind", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("start_ms", pa.int64(), nullable=False),
        pa.field("duration_ms", pa.int64(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("caption_origin", pa.string()),
        pa.field("expected_digest", pa.string()),
        pa.field("license", pa.string()),
        pa.field("extra", pa.map_(pa.string(), pa.string()), nullable=False),
    ],
    metadata={"format": "uniform manifest 1"},
)
"""Columns of manifest.parquet: the fields of `pipelines.clip.Row`, in their order."""

_SHARED: tuple[str, ...] = ("dataset", "split", "source_kind", "caption_origin", "license")
"""Columns of few different values: their rows share one text each."""


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Manifest rows as a record batch with manifest.parquet's columns."""
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns["extra"] = [sorted(row.extra.items()) for row in rows]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Manifest rows as a table with manifest.parquet's columns."""
    return pa.Table.from_batches([batch_of(list(rows))], SCHEMA)


def rows_of(table: pa.RecordBatch | pa.Table) -> Iterator[Row]:
    """Manifest rows of a table or record batch with manifest.parquet's columns, in order."""
    columns = {name: table.column(name).to_pylist() for name in SCHEMA.names}
    for name in _SHARED:
        columns[name] = [None if text is None else sys.intern(text) for text in columns[name]]
    labels: dict[tuple[str, ...], tuple[str, ...]] = {}
    columns["labels"] = [labels.setdefault(key, key) for key in map(tuple, columns["labels"])]
    columns["extra"] = [dict(pairs) for pairs in columns["extra"]]
    for values in zip(*columns.values(), strict=True):
        yield Row(**dict(zip(columns, values, strict=True)))
