"""A Parquet file whose rows hold whole videos, seen as an archive: one member a row, named by its number.

label/00000017.mp4     the row's bytes; the folder only where there is a column `label`
label/00000017.txt     its caption, where there is a column for it: the member's sidecar
"""

import bisect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from uniform.tables import LOCAL, local_name

VIDEO_COLUMNS = ("video", "mp4", "bytes", "media")
"""Binary, or a struct with a binary field `bytes` as hubs of data sets write it."""
CAPTION_COLUMNS = ("caption", "text", "txt")
LABEL_COLUMNS = ("label", "class")
VIDEO_ROWS, TEXT_ROWS = 1, 1_024
"""Rows that are decoded at a time."""
GROUP_BYTES = 400_000_000
"""Of one row group, uncompressed. A page may hold the whole group, as in the files that pyarrow writes:
one video of it then takes three times this memory (1.24 GB for 400 MB, measured), which `fetch_media` declares."""

Value = bytes | str | dict[str, bytes] | None


class GroupTooLargeError(Exception):
    """A row group of which no row can be had within the memory of a worker."""


@dataclass
class _OpenGroup:
    """A row group that is being decoded, row by row from its beginning."""

    column: str
    group: int
    batches: Iterator[pa.RecordBatch]
    batch: pa.RecordBatch | None = None
    first: int = 0
    """Row of the group that the batch begins with."""

    def value(self, row: int) -> Value:
        """The value of a row, which must not lie before the batch."""
        while self.batch is None or row >= self.first + self.batch.num_rows:
            self.first += 0 if self.batch is None else self.batch.num_rows
            self.batch = next(self.batches, None)
            if self.batch is None:
                raise EOFError(f"row group {self.group} ends before its row {row}")
        found: Value = self.batch.column(0)[row - self.first].as_py()
        return found


class ParquetMembers:
    """Names and contents of the rows' videos; rows that are asked for in their order decode a row group once.

    Raises: KeyError where no column has videos; ArrowException, OSError, EOFError, UnicodeDecodeError for damage.
    """

    def __init__(self, path: Path) -> None:
        self._open: _OpenGroup | None = None
        self._file = pq.ParquetFile(local_name(path), filesystem=LOCAL)
        schema = self._file.schema_arrow
        video = next(
            (name for name in VIDEO_COLUMNS if name in schema.names and _holds_bytes(schema.field(name))), None
        )
        if video is None:
            raise KeyError(f"no binary column called {', '.join(VIDEO_COLUMNS)}")
        self._video = video
        facts = self._file.metadata
        self._ends = list(itertools.accumulate(facts.row_group(n).num_rows for n in range(facts.num_row_groups)))
        self._caption = _text_column(schema, CAPTION_COLUMNS)
        self._label = _text_column(schema, LABEL_COLUMNS)

    def names(self) -> Iterator[str]:
        """Names of the members, row by row; the videos themselves are not read. Raises GroupTooLargeError."""
        for group in range(self._file.num_row_groups):
            self._require_small(group)
        rows = self._file.metadata.num_rows
        labels = self._texts(self._label) if self._label else iter(())
        for row in range(rows):
            label = _folder_name(next(labels, None))
            stem = str(PurePosixPath(label) / f"{row:08d}")
            yield f"{stem}.mp4"
            if self._caption is not None:
                yield f"{stem}.txt"

    def read(self, member: str) -> bytes:
        """Content of a member. Raises KeyError for a name that `names` does not give; GroupTooLargeError."""
        name = PurePosixPath(member)
        if not re.fullmatch(r"\d{8,}", name.stem) or int(name.stem) >= self._file.metadata.num_rows:
            raise KeyError(member)
        column = {".mp4": self._video, ".txt": self._caption}.get(name.suffix)
        if column is None:
            raise KeyError(member)
        value = self._value(column, int(name.stem))
        if isinstance(value, dict):
            value = value["bytes"]
        return value.encode() if isinstance(value, str) else value or b""

    def let_go(self) -> None:
        """Forget the row group that was read last."""
        self._open = None

    def _value(self, column: str, row: int) -> Value:
        group, row = self._place(row)
        held = self._open
        if held is None or (held.column, held.group) != (column, group) or row < held.first:
            self._open = held = None  # one group in memory, never two
            self._require_small(group)
            at_once = VIDEO_ROWS if column == self._video else TEXT_ROWS
            batches = self._file.iter_batches(at_once, row_groups=[group], columns=[column])
            self._open = held = _OpenGroup(column, group, batches)
        try:
            return held.value(row)
        except BaseException:
            self._open = None  # damage ends its batches; the rows before it can still be had
            raise

    def _place(self, row: int) -> tuple[int, int]:
        """(row group, row in it) of a row of the file."""
        group = bisect.bisect_right(self._ends, row)
        if group < len(self._ends):
            first = self._ends[group - 1] if group else 0
            return group, row - first
        raise EOFError("its row groups hold fewer rows than it announces")

    def _require_small(self, group: int) -> None:
        # The whole group's, for the facts of one column end the process where they are damaged (pyarrow 26).
        facts = self._file.metadata.row_group(group)
        if facts.total_byte_size <= GROUP_BYTES:
            return
        advice = "write it again with row_group_size=16" if facts.num_rows > 16 else "keep such videos as files"
        raise GroupTooLargeError(
            f"row group {group} holds {facts.num_rows:,} rows with {facts.total_byte_size / 1e6:,.0f} MB, limit "
            f"{GROUP_BYTES / 1e6:,.0f} MB, since one row takes the memory of all: {advice}"
        )

    def _texts(self, column: str) -> Iterator[str | None]:
        for batch in self._file.iter_batches(columns=[column]):
            yield from batch.column(0).to_pylist()


def _holds_bytes(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes"))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _text_column(schema: pa.Schema, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in schema.names and schema.field(name).type == pa.string()), None)


def _folder_name(label: str | None) -> str:
    """A label as one folder's name: no slash, no dot at its begin, no control character."""
    return re.sub(r"[\x00-\x1f/\\#]", " ", label or "").strip(" .")
