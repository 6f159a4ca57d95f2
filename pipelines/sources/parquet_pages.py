"""Sizes of the pages of a Parquet file, read from their headers: the footer's totals can state anything.

A reader allocates what a page header states, so the sum of these is the memory that a row group takes.
Source: parquet.thrift of Apache Parquet; compact protocol of Apache Thrift.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

FOOTER_BYTES = 32 << 20
HEADER_BYTES = 1 << 20
"""Of one page header; statistics make it long."""
MAX_DEPTH = 32


@dataclass(frozen=True)
class Chunk:
    """Pages of one column in one row group, uncompressed."""

    total_bytes: int
    largest_page_bytes: int
    dictionary_bytes: int


class PageSizes:
    """Sizes of column chunks. Raises ValueError for a damaged file, OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            footer = _footer(file)
        self._groups: list[dict[str, tuple[int, int]]] = [_places(group) for group in _items(footer.get(4))]

    def columns(self, group: int) -> list[str]:
        """Paths of the columns of a row group, with dots between nested names."""
        return list(self._groups[group])

    def chunk(self, group: int, column: str) -> Chunk:
        """Sizes of the chunk of `column`, its path with dots. Raises ValueError."""
        if column not in self._groups[group]:
            raise ValueError(f"row group {group} has no column {column!r}")
        begin, length = self._groups[group][column]
        total = largest = dictionary = 0
        with self._path.open("rb") as file:
            position, end = begin, begin + length
            while position < end:
                header, header_bytes = _page_header(file, position, end)
                uncompressed, compressed = _integer(header.get(2)), _integer(header.get(3))
                total += uncompressed
                largest = max(largest, uncompressed)
                if header.get(1) == 2:
                    dictionary = max(dictionary, uncompressed)
                position += header_bytes + compressed
        return Chunk(total, largest, dictionary)

    def top_level(self, group: int, name: str) -> list[Chunk]:
        """Chunks of the column `name` and of the columns nested in it. Raises ValueError."""
        wanted = [column for column in self._groups[group] if column == name or column.startswith(f"{name}.")]
        return [self.chunk(group, column) for column in wanted]

    def __len__(self) -> int:
        """Row groups."""
        return len(self._groups)


def _footer(file: BinaryIO) -> dict[int, Any]:
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or tail[4:] != b"PAR1" or length > size - 8:
        raise ValueError("no Parquet footer")
    if length > FOOTER_BYTES:
        raise ValueError(f"a footer of {length:,} bytes, limit {FOOTER_BYTES:,}")
    file.seek(size - 8 - length)
    return _Compact(file.read(length)).struct()


def _places(group: Any) -> dict[str, tuple[int, int]]:
    """Column's path -> (first byte, bytes) of its chunk in a row group."""
    places = {}
    for column in _items(_table(group).get(1)):
        metadata = _table(_table(column).get(3))
        path = ".".join(bytes(part).decode("utf-8", "replace") for part in _items(metadata.get(3)))
        begin, dictionary = _integer(metadata.get(9)), _integer(metadata.get(11, 0))
        places[path] = (min(begin, dictionary) if dictionary > 0 else begin, _integer(metadata.get(7)))
    return places


def _page_header(file: BinaryIO, position: int, end: int) -> tuple[dict[int, Any], int]:
    """A page's header and its length in bytes."""
    window = 1 << 12
    while True:
        file.seek(position)
        content = file.read(min(window, end - position))
        reader = _Compact(content)
        try:
            return reader.struct(), reader.position
        except EOFError as error:
            if window >= HEADER_BYTES or len(content) < window:
                raise ValueError(f"the page header at byte {position:,} is cut") from error
            window *= 16


def _integer(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a size or place is missing or negative")
    return value


def _table(value: Any) -> dict[int, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Compact:
    """Decodes Thrift's compact protocol. Raises EOFError at the end of the content, ValueError for anything else."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Field number -> value of a struct."""
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return struct.unpack("<d", self._take(8))[0]
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 11:
            return self._map(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a value of unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        self._require(size)
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> list[Any]:
        size = self._varint()
        self._require(size)
        kinds = self._byte() if size else 0
        return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(size)]

    def _require(self, size: int) -> None:
        if size > len(self._content) - self.position:
            raise EOFError

    def _take(self, size: int) -> bytes:
        self._require(size)
        self.position += size
        return self._content[self.position - size : self.position]

    def _byte(self) -> int:
        self._require(1)
        self.position += 1
        return self._content[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
