"""A Parquet file whose rows hold whole videos, seen as an archive: one member a row, named by its number.

label/00000017.mp4     the row's bytes; the folder only where there is a column `label`
label/00000017.txt     its caption, where there is a column for it: the member's sidecar
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

VIDEO_COLUMNS = ("video", "mp4", "bytes", "media")
"""Binary, or a struct with a binary field `bytes` as hubs of data sets write it."""
CAPTION_COLUMNS = ("caption", "text", "txt")
LABEL_COLUMNS = ("label", "class")
BATCH_ROWS = 16


class ParquetMembers:
    """Names and contents of the rows' videos. Raises KeyError where no column has them, ArrowException for damage."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        video = next(
            (name for name in VIDEO_COLUMNS if name in schema.names and _holds_bytes(schema.field(name))), None
        )
        if video is None:
            raise KeyError(f"no binary column called {', '.join(VIDEO_COLUMNS)}")
        self._video = video
        self._caption = _text_column(schema, CAPTION_COLUMNS)
        self._label = _text_column(schema, LABEL_COLUMNS)

    def names(self) -> Iterator[str]:
        """Names of the members, row by row; the videos themselves are not read."""
        rows = self._file.metadata.num_rows
        labels = self._texts(self._label) if self._label else iter(())
        for row in range(rows):
            label = _folder_name(next(labels, None))
            stem = str(PurePosixPath(label) / f"{row:08d}")
            yield f"{stem}.mp4"
            if self._caption is not None:
                yield f"{stem}.txt"

    def read(self, member: str) -> bytes:
        """Content of a member. Raises KeyError for a name that `names` does not give."""
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

    def _value(self, column: str, row: int) -> bytes | str | dict[str, bytes] | None:
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if row >= rows:
                row -= rows
                continue
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                if row < batch.num_rows:
                    found: bytes | str | dict[str, bytes] | None = batch.column(0)[row].as_py()
                    return found
                row -= batch.num_rows
        raise KeyError(column)

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
