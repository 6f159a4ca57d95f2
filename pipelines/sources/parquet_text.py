"""Text columns of Parquet files, read with limits: labels and captions beside videos, and the cells of listings.

A column that is stored as a dictionary stays one in memory: a file of 9 kB can hold 4,096 times the same 8 MB.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources.parquet_pages import PageSizes

TEXT_BYTES = 65_536
"""Longest text of a row; a longer one is cut to one character more, which readers refuse."""
PAGE_BYTES = 64 << 20
"""Largest page of a text column, uncompressed. Writers make pages of about 1 MB."""
BATCH_BYTES = 256 << 20
"""Memory for the texts of one batch."""
BATCH_ROWS = 4_096
LIST_SEPARATOR = ", "


class TextTooLargeError(Exception):
    """Texts that take more memory than they may."""


class TextColumn:
    """A label or caption for each row: texts, whole numbers, the names of a hub's class labels, or lists of texts."""

    def __init__(self, path: Path, name: str, pages: PageSizes, class_names: Sequence[str]) -> None:
        self.name = name
        self._path, self._pages, self._class_names = path, pages, class_names
        self._group: tuple[int, list[str | None]] | None = None

    @classmethod
    def find(cls, path: Path, schema: pa.Schema, names: Sequence[str], pages: PageSizes) -> "TextColumn | None":
        """The first of the columns called `names` that holds texts or whole numbers."""
        for name in names:
            if name in schema.names and _is_text(schema.field(name).type):
                return cls(path, name, pages, _class_names(schema, name))
        return None

    def texts(self) -> Iterator[str | None]:
        """The text of each row of the file. Raises as `text_batches`, and UnicodeDecodeError."""
        for group in range(len(self._pages)):
            yield from self._read(group)

    def text(self, group: int, row: int) -> str | None:
        """The text of one row of a row group; the texts of the group are kept."""
        if self._group is None or self._group[0] != group:
            self._group = (group, list(self._read(group)))
        texts = self._group[1]
        if row >= len(texts):
            raise EOFError(f"row group {group} ends before its row {row}")
        return texts[row]

    def let_go(self) -> None:
        """Free the texts that were read last."""
        self._group = None

    def _read(self, group: int) -> Iterator[str | None]:
        for batch in text_batches(self._path, [self.name], self._pages, [group]):
            yield from (self._as_text(value) for value in batch.column(0).to_pylist())

    def _as_text(self, value: Any) -> str | None:
        if isinstance(value, list):
            return LIST_SEPARATOR.join(text for item in value if (text := self._as_text(item)))
        if isinstance(value, int) and 0 <= value < len(self._class_names):
            return self._class_names[value]
        return None if value is None else str(value)


def text_batches(
    path: Path, columns: Sequence[str], pages: PageSizes, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of columns whose cells are texts or numbers, in bounded memory. Cells that are too long are cut.

    Raises: TextTooLargeError for pages or rows of too many bytes; ArrowException, OSError, ValueError for damage.
    """
    leaves = pages.columns(0) if len(pages) else []
    dictionaries = [leaf for leaf in leaves if leaf.split(".")[0] in columns]
    with pq.ParquetFile(path, read_dictionary=dictionaries) as file:
        for group in range(len(pages)) if groups is None else groups:
            largest = _largest_page(pages, group, columns)
            rows = max(16, min(BATCH_ROWS, BATCH_BYTES // max(largest, 1)))
            for batch in file.iter_batches(rows, row_groups=[group], columns=list(columns)):
                yield _bounded(batch)


def _largest_page(pages: PageSizes, group: int, columns: Sequence[str]) -> int:
    largest = 0
    for column in columns:
        for chunk in pages.top_level(group, column):
            largest = max(largest, chunk.largest_page_bytes)
    if largest > PAGE_BYTES:
        raise TextTooLargeError(f"row group {group} has a page of {largest:,} bytes of text, limit {PAGE_BYTES:,}")
    return largest


def _bounded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with too long cells cut. Raises TextTooLargeError where lists or objects make it large all the same."""
    columns = [_cut(column) for column in batch.columns]
    expanded = sum(_expanded_bytes(column) for column in columns)
    if expanded > 2 * BATCH_BYTES:
        raise TextTooLargeError(f"{batch.num_rows:,} rows hold {expanded:,} bytes of text, limit {2 * BATCH_BYTES:,}")
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _cut(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_dictionary(kind):
        cut = _cut(array.dictionary)
        return array if cut is array.dictionary else pa.DictionaryArray.from_arrays(array.indices, cut)
    if not _is_plain_text(kind) or (pc.max(pc.binary_length(array)).as_py() or 0) <= TEXT_BYTES:
        return array
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_slice(array, 0, TEXT_BYTES + 1)
    return pc.utf8_slice_codeunits(array, 0, TEXT_BYTES + 1)


def _expanded_bytes(array: pa.Array) -> int:
    """Bytes of all values, each written out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not _is_plain_text(kind.value_type):
            return int(array.nbytes)
        return int(pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)
    if _is_plain_text(kind):
        return int(pc.sum(pc.binary_length(array)).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        items = array.flatten()
        return _expanded_bytes(items) + 8 * len(items)
    if pa.types.is_map(kind):
        return _expanded_bytes(array.keys) + _expanded_bytes(array.items)
    if pa.types.is_struct(kind):
        return sum(_expanded_bytes(field) for field in array.flatten())
    return int(array.nbytes)


def _is_plain_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type) and not pa.types.is_list(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    return any(test(kind) for test in tests)


def _class_names(schema: pa.Schema, name: str) -> list[str]:
    """The names of a class label, as dataset hubs write them into the schema's metadata; empty where there are none."""
    content = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        feature = json.loads(content)["info"]["features"][name]
        names = feature["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [str(one) for one in names] if isinstance(names, list) else []
