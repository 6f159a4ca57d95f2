"""Manifest rows as an Arrow table, and back: the columns of manifest.parquet."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.manifest.gc_paused import gc_paused
from uniform.atomic import replacing
from uniform.errors import ManifestError

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

WRITE_ROWS = 16_384
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


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write `rows` to `path`, whole or not at all; the same rows give the same bytes."""
    with (
        gc_paused(),
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        part: list[Row] = []
        for row in rows:
            part.append(row)
            if len(part) == WRITE_ROWS:
                writer.write_batch(batch_of(part))
                part = []
        writer.write_batch(batch_of(part))


def read_rows(path: Path) -> list[Row]:
    """The rows of a manifest.parquet. Raises ManifestError where it is missing or is no such table."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path}: not a manifest table ({error}). Make it: uniform manifest build MANIFEST"
        ) from error
    with file:
        if not file.schema_arrow.equals(SCHEMA):
            raise ManifestError(
                f"{path}: its columns are {', '.join(file.schema_arrow.names)}; wanted {', '.join(SCHEMA.names)}. "
                f"Make the table anew: uniform manifest build MANIFEST"
            )
        try:
            with gc_paused():
                return [row for batch in file.iter_batches(WRITE_ROWS) for row in rows_of(batch)]
        except (OSError, pa.ArrowException) as error:
            raise ManifestError(f"{path}: damaged ({error}). Make it anew: uniform manifest build MANIFEST") from error
