"""Zip archives with limits: the size of the table of contents, overlapping members, and the sum of all members."""

import os
import struct
import zipfile
from pathlib import Path
from typing import IO

RATIO, ALLOWANCE_BYTES = 20, 1 << 30
"""All members of an archive together may have `RATIO` times its size and `ALLOWANCE_BYTES` more."""
TABLE_BYTES = 64 << 20
"""Of the table of contents: some 700,000 members."""
_END, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LONGEST_COMMENT = 65_535


class ArchiveLimitError(Exception):
    """An archive that is refused as a whole, with the reason."""


def largest_sum(archive_bytes: int) -> int:
    """Bytes that all members of an archive of this size may have together."""
    return RATIO * archive_bytes + ALLOWANCE_BYTES


class ZipMembers:
    """A zip archive's members. Raises ArchiveLimitError, and what zipfile raises."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            table_bytes = _table_bytes(file.fileno())
        if table_bytes > TABLE_BYTES:
            raise ArchiveLimitError(f"its table of contents has {table_bytes:,} bytes, limit {TABLE_BYTES:,}; split it")
        self._archive = zipfile.ZipFile(path)
        self.infos: dict[str, zipfile.ZipInfo] = {}
        """Name with forward slashes -> member; of members with one name the last counts."""
        self.refused: dict[str, str] = {}
        self.unnamed_encoding: list[str] = []
        """Names that are not ASCII and whose encoding the archive does not state; read as CP437."""
        self._check_spans(path)
        for info in self._archive.infolist():
            self._add(info)

    def open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """The member's content. Raises what zipfile raises."""
        return self._archive.open(info)

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.replace("\\", "/")
        if name.endswith("/"):
            return
        if not name.isascii() and not info.flag_bits & 0x800:
            self.unnamed_encoding.append(name)
        if is_link(info):
            self.refused[name] = "a link"
        elif name == info.filename or name not in self.infos or "\\" in self.infos[name].filename:
            self.infos[name] = info

    def _check_spans(self, path: Path) -> None:
        """Refuse members that share bytes, as zip bombs do, and members of a too large sum."""
        infos = sorted(self._archive.infolist(), key=lambda info: info.header_offset)
        ends = [info.header_offset for info in infos[1:]] + [self._archive.start_dir]
        for info, end in zip(infos, ends, strict=True):
            if info.header_offset + 30 + info.compress_size > end:
                raise ArchiveLimitError(f"member {info.filename[:80]!r} overlaps the next one; pack it again")
        total, limit = sum(info.file_size for info in infos), largest_sum(path.stat().st_size)
        if total > limit:
            raise ArchiveLimitError(f"its members have {total:,} bytes together, limit {limit:,} for its size")


def is_link(info: zipfile.ZipInfo) -> bool:
    """Whether the member is a symbolic link of Unix."""
    return (info.external_attr >> 16) & 0o170000 == 0o120000


def _table_bytes(handle: int) -> int:
    """Size of the table of contents, as the end record says; 0 where there is none."""
    size = os.fstat(handle).st_size
    begin = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = os.pread(handle, size - begin, begin)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        return 0
    table_bytes: int = _END.unpack_from(tail, at)[5]
    at64 = tail.rfind(b"PK\6\6", 0, at)
    if table_bytes == 0xFFFFFFFF and at64 >= 0 and at64 + _END64.size <= len(tail):
        table_bytes = _END64.unpack_from(tail, at64)[8]
    return table_bytes
