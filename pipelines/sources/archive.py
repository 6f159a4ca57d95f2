"""Tables of contents of zip and tar archives and of Parquet files of videos, and their members' content.

Nothing is ever unpacked by its own name.
"""

import contextlib
import errno
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipelines.sources.parquet import GroupTooLargeError, ParquetMembers

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
"""What the readers raise for an archive that is damaged or uses a method that they do not know."""
_UNREADABLE = (errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE)
"""What the system says of an archive that is there, or was: of its disk and its permissions, not of its content."""


class MemberError(Exception):
    """A member that cannot be had, with the ledger's code."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong with an archive in the block into a MemberError; `what` is named in its reason.

    Raises: MemberError: archive_corrupt, unreadable_source, out_of_memory. OSError where the machine is to blame.
    """
    try:
        yield
    except MemoryError as error:  # first: Arrow's own is an ArrowException too
        raise MemberError("out_of_memory", f"{what}: {error}") from error
    except _DAMAGE as error:
        raise MemberError("archive_corrupt", f"{what}: {error}") from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # bz2 and Arrow name damage so; an offset may lead before the file
            raise MemberError("archive_corrupt", f"{what}: {error}") from error
        if error.errno not in _UNREADABLE:
            raise
        raise MemberError("unreadable_source", f"{what}: {error.strerror or error}") from error


class ArchiveTable:
    """An archive's table of contents, read once. Raises MemberError for an archive of another kind, or damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._tar: dict[str, tuple[int, int]] = {}
        self._odd: dict[str, str] = {}
        self._parquet: ParquetMembers | None = None
        with reading(path.name):
            self._read()

    def _read(self) -> None:
        path = self._path
        if path.suffix == ".parquet":
            try:
                self._parquet = ParquetMembers(path)
            except KeyError as error:
                raise MemberError("archive_unsupported", f"{path.name}: {error.args[0]}") from error
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

    def names(self) -> Iterator[str]:
        """Names of the plain files. Raises MemberError: archive_corrupt, archive_unsupported, unreadable_source."""
        if self._parquet is not None:
            with reading(self._path.name):
                yield from self._parquet_names(self._parquet)
        elif self._zip is not None:
            yield from (info.filename for info in self._zip.infolist() if not info.is_dir() and not _is_link(info))
        else:
            yield from self._tar

    def open(self, member: str, largest_bytes: int) -> IO[bytes]:
        """The member's content, to be read within `reading`.

        Raises: MemberError: missing_source, encrypted, too_large, outside_root, archive_unsupported, and as `reading`.
        """
        with reading(f"{self._path.name}: {member!r}"):
            if self._parquet is not None:
                return self._open_in_parquet(self._parquet, member, largest_bytes)
            if self._zip is not None:
                return self._open_in_zip(self._zip, member, largest_bytes)
            return self._open_in_tar(member, largest_bytes)

    def let_go(self) -> None:
        """Forget what was read ahead: the rows of a Parquet file take much memory."""
        if self._parquet is not None:
            self._parquet.let_go()

    def _open_in_zip(self, archive: zipfile.ZipFile, member: str, largest_bytes: int) -> IO[bytes]:
        try:
            info = archive.getinfo(member)
        except KeyError:
            raise MemberError("missing_source", f"{self._path.name} has no member {member!r}") from None
        if info.is_dir() or _is_link(info):
            raise MemberError("outside_root", f"{member!r} is a folder or link, not a file")
        if info.flag_bits & 1:
            raise MemberError("encrypted", f"{member!r} wants a password")
        if info.file_size > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {info.file_size:,} bytes, limit {largest_bytes:,}")
        return archive.open(info)

    def _parquet_names(self, rows: ParquetMembers) -> Iterator[str]:
        try:
            yield from rows.names()
        except GroupTooLargeError as error:
            raise MemberError("archive_unsupported", f"{self._path.name}: {error}") from error

    def _open_in_parquet(self, rows: ParquetMembers, member: str, largest_bytes: int) -> IO[bytes]:
        try:
            content = rows.read(member)
        except KeyError:
            raise MemberError("missing_source", f"{self._path.name} has no member {member!r}") from None
        except GroupTooLargeError as error:
            raise MemberError("archive_unsupported", f"{self._path.name}: {error}") from error
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
