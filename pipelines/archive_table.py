"""Tables of contents of zip and tar archives and of Parquet files of videos, and their members' content.

Nothing is ever unpacked by its own name.
"""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipelines.parquet_members import ParquetMembers

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)
"""What the readers raise for an archive that is damaged or uses a method that they do not know."""


class MemberError(Exception):
    """A member that cannot be had, with the ledger's code."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class ArchiveTable:
    """An archive's table of contents, read once. Raises MemberError for an archive of another kind, or damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._tar: dict[str, tuple[int, int]] = {}
        self._odd: dict[str, str] = {}
        self._parquet: ParquetMembers | None = None
        try:
            if path.suffix == ".parquet":
                self._parquet = ParquetMembers(path)
            elif zipfile.is_zipfile(path):
                self._zip = zipfile.ZipFile(path)
            elif _is_compressed(path):
                found = f"{path.name} is compressed as a whole; decompress it: {_advice(path)}"
                raise MemberError("archive_unsupported", found)
            else:
                with tarfile.open(path, "r:") as tar:
                    for info in tar:
                        if info.isreg():
                            self._tar[info.name.removeprefix("./")] = (info.offset_data, info.size)
                        elif not info.isdir():
                            self._odd[info.name.removeprefix("./")] = "a link or device"
        except KeyError as error:
            raise MemberError("archive_unsupported", f"{path.name}: {error.args[0]}") from error
        except DAMAGE as error:
            raise MemberError("archive_corrupt", f"{path.name}: {error}") from error

    def names(self) -> Iterator[str]:
        """Names of the plain files."""
        if self._parquet is not None:
            yield from self._parquet.names()
        elif self._zip is not None:
            yield from (info.filename for info in self._zip.infolist() if not info.is_dir() and not _is_link(info))
        else:
            yield from self._tar

    def open(self, member: str, largest_bytes: int) -> IO[bytes]:
        """The member's content. Raises MemberError: missing_source, encrypted, too_large, outside_root."""
        if self._parquet is not None:
            return self._open_in_parquet(self._parquet, member, largest_bytes)
        if self._zip is None:
            return self._open_in_tar(member, largest_bytes)
        try:
            info = self._zip.getinfo(member)
        except KeyError:
            raise MemberError("missing_source", f"{self._path.name} has no member {member!r}") from None
        if info.is_dir() or _is_link(info):
            raise MemberError("outside_root", f"{member!r} is a folder or link, not a file")
        if info.flag_bits & 1:
            raise MemberError("encrypted", f"{member!r} wants a password")
        if info.file_size > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {info.file_size:,} bytes, limit {largest_bytes:,}")
        return self._zip.open(info)

    def _open_in_parquet(self, rows: ParquetMembers, member: str, largest_bytes: int) -> IO[bytes]:
        try:
            content = rows.read(member)
        except KeyError:
            raise MemberError("missing_source", f"{self._path.name} has no member {member!r}") from None
        if len(content) > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {len(content):,} bytes, limit {largest_bytes:,}")
        return io.BytesIO(content)

    def _open_in_tar(self, member: str, largest_bytes: int) -> IO[bytes]:
        if member in self._odd:
            raise MemberError("outside_root", f"{member!r} is {self._odd[member]}, not a file")
        if member not in self._tar:
            raise MemberError("missing_source", f"{self._path.name} has no member {member!r}")
        offset, size = self._tar[member]
        if size > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {size:,} bytes, limit {largest_bytes:,}")
        return io.BufferedReader(_Window(self._path, offset, size))


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 16) & 0o170000 == 0o120000


def _is_compressed(path: Path) -> bool:
    """Whether a file begins as gzip, bzip2, xz or zstandard does."""
    with path.open("rb") as file:
        head = file.read(6)
    return head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _advice(path: Path) -> str:
    tool = {".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}.get(path.suffix, "gunzip")
    return f"{tool} --keep {path.name}"


class _Window(io.RawIOBase):
    """A span of a file, read as a file: a member of an uncompressed tar."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file, self._left = path.open("rb"), size
        self._file.seek(offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        content = self._file.read(min(len(view), self._left))
        if not content and self._left:
            raise EOFError(f"{self._left:,} bytes are missing")
        view[: len(content)] = content
        self._left -= len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
