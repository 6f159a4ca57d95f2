"""A Parquet file whose rows hold whole videos, seen as an archive: one member a row, named by its number.

label/00000017.mp4     the row's bytes; the folder only where there is a column `label`
label/00000017.txt     its caption, where there is a column for it: the member's sidecar
"""

import bisect
import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.parquet_pages import PageSizes
from pipelines.sources.parquet_text import TextColumn
from pipelines.sources.zip import largest_sum

VIDEO_COLUMNS = ("video", "mp4", "bytes", "media")
"""Binary, or a struct with a binary field `bytes` as dataset hubs write it."""
CAPTION_COLUMNS = ("caption", "text", "txt")
LABEL_COLUMNS = ("label", "class")
GROUP_BYTES = 400_000_000
"""Of the videos of one row group, uncompressed. A page may hold the whole group, as in the files that pyarrow writes:
one video of it then takes three times this memory (1.24 GB for 400 MB, measured), which `fetch_media` declares."""

Value = bytes | dict[str, Any] | None


class GroupTooLargeError(Exception):
    """A row group of which no row can be read within the memory of a worker, or a file that expands too far."""


class PathInRowError(Exception):
    """A row that holds the path of a video in place of its bytes."""


@dataclass
class _OpenGroup:
    """A row group that is being decoded, row by row from its beginning."""

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

    Raises: KeyError where no column has videos; ArrowException, OSError, EOFError, ValueError for damage.
    """

    def __init__(self, path: Path) -> None:
        self._open: _OpenGroup | None = None
        self._pages = PageSizes(path)
        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        video = next(
            (name for name in VIDEO_COLUMNS if name in schema.names and _holds_bytes(schema.field(name))), None
        )
        if video is None:
            raise KeyError(f"no binary column called {', '.join(VIDEO_COLUMNS)}")
        self._video = video
        metadata = self._file.metadata
        self._ends = list(itertools.accumulate(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)))
        if len(self._ends) != len(self._pages):
            raise EOFError("its footer lists another number of row groups")
        self._label = TextColumn.find(path, schema, LABEL_COLUMNS, self._pages)
        self._caption = TextColumn.find(path, schema, CAPTION_COLUMNS, self._pages)
        self.unread = [
            f"column '{name}' of type {schema.field(name).type}"
            for names, column in ((LABEL_COLUMNS, self._label), (CAPTION_COLUMNS, self._caption))
            for name in names
            if name in schema.names and (column is None or column.name != name)
        ]
        """Columns that are called as a label or caption and that are not read."""
        self._label_in_name = self._label is not None and schema.field(self._label.name).type == pa.string()
        self.folders: dict[str, str] = {}
        """Member -> label, where the label is not in its name: other types of labels than text came after 0.3.0, and
        names are part of clip ids."""
        self._largest_sum = largest_sum(path.stat().st_size)
        self._taken: dict[int, int] = {}

    def names(self) -> Iterator[str]:
        """Names of the members, row by row; the videos themselves are not read. Raises GroupTooLargeError."""
        total = 0
        for group in range(len(self._ends)):
            with contextlib.suppress(ValueError):  # a damaged group costs its own rows, when they are read
                total += self._require_small(group)
        if total > self._largest_sum:
            raise GroupTooLargeError(f"its videos have {total:,} bytes, limit {self._largest_sum:,} for its size")
        labels = self._label.texts() if self._label else iter(())
        for row in range(self._file.metadata.num_rows):
            label = _folder_name(next(labels, None))
            stem = str(PurePosixPath(label if self._label_in_name else "") / f"{row:08d}")
            if label and not self._label_in_name:
                self.folders[f"{stem}.mp4"] = label
            yield f"{stem}.mp4"
            if self._caption is not None:
                yield f"{stem}.txt"

    def read(self, member: str) -> bytes:
        """Content of a member.

        Raises: KeyError for a name that `names` does not give; GroupTooLargeError; PathInRowError.
        """
        name = PurePosixPath(member)
        if not re.fullmatch(r"[0-9]{8,18}", name.stem) or int(name.stem) >= self._file.metadata.num_rows:
            raise KeyError(member)
        row = int(name.stem)
        if name.suffix == ".txt" and self._caption is not None:
            group, place = self._place(row)
            return (self._caption.text(group, place) or "").encode()
        if name.suffix != ".mp4":
            raise KeyError(member)
        value = self._value(row)
        if isinstance(value, dict):
            content, path = value["bytes"], value.get("path")
            if content is None and isinstance(path, str) and path:
                raise PathInRowError(f"row {row} holds the path {path[:80]!r} and no bytes")
            value = content
        self._taken[row] = len(value or b"")
        if sum(self._taken.values()) > self._largest_sum:
            raise GroupTooLargeError(f"its videos have more than {self._largest_sum:,} bytes, the limit for its size")
        return value or b""

    def let_go(self) -> None:
        """Free the row group that was read last."""
        self._open = None
        for column in (self._label, self._caption):
            if column is not None:
                column.let_go()

    def _value(self, row: int) -> Value:
        group, row = self._place(row)
        held = self._open
        if held is None or held.group != group or row < held.first:
            self._open = held = None  # one group in memory, never two
            self._require_small(group)
            batches = self._file.iter_batches(1, row_groups=[group], columns=[self._video])
            self._open = held = _OpenGroup(group, batches)
        try:
            return held.value(row)
        except BaseException:
            self._open = None  # damage ends its batches; the rows before it can still be read
            raise

    def _place(self, row: int) -> tuple[int, int]:
        """(row group, row in it) of a row of the file."""
        group = bisect.bisect_right(self._ends, row)
        if group < len(self._ends):
            first = self._ends[group - 1] if group else 0
            return group, row - first
        raise EOFError("its row groups hold fewer rows than it announces")

    def _require_small(self, group: int) -> int:
        """Bytes of the group's videos, uncompressed. Raises GroupTooLargeError."""
        found = sum(chunk.total_bytes for chunk in self._pages.top_level(group, self._video))
        if found <= GROUP_BYTES:
            return found
        rows = self._file.metadata.row_group(group).num_rows
        advice = "write it again with row_group_size=16" if rows > 16 else "keep such videos as files"
        raise GroupTooLargeError(
            f"row group {group} holds {rows:,} rows with {found / 1e6:,.0f} MB, limit "
            f"{GROUP_BYTES / 1e6:,.0f} MB, since one row takes the memory of all: {advice}"
        )


def _holds_bytes(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes"))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _folder_name(label: str | None) -> str:
    """A label as one folder's name: no slash, no dot at its begin, no control character."""
    return re.sub(r"[\x00-\x1f/\\#]", " ", label or "").strip(" .")
