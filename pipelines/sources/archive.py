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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipelines.sources.parquet import GroupTooLargeError, ParquetMembers, PathInRowError
from pipelines.sources.parquet_text import TextTooLargeError
from pipelines.sources.tar import SPARSE, TarContents, member_name, read_tar
from pipelines.sources.zip import ArchiveLimitError, ZipMembers

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
)
"""What the readers raise for a damaged archive."""
_UNSUPPORTED = (NotImplementedError, ArchiveLimitError, GroupTooLargeError, TextTooLargeError)
"""What they raise for a method that they do not read, and for an archive over a limit."""
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

    Raises: MemberError: archive_corrupt, archive_unsupported, unreadable_source, out_of_memory. OSError for faults of
    the machine.
    """
    try:
        yield
    except MemoryError as error:  # first: Arrow's own is an ArrowException too
        raise MemberError("out_of_memory", f"{what}: {error}") from error
    except _UNSUPPORTED as error:
        raise MemberError("archive_unsupported", f"{what}: {error}") from error
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
        self._zip: ZipMembers | None = None
        self._tar = TarContents()
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
            self._zip = ZipMembers(path)
        elif _is_compressed(path):
            found = f"{path.name} is compressed as a whole; decompress it: {_advice(path)}"
            raise MemberError("archive_unsupported", found)
        else:
            self._tar = read_tar(path)

    def names(self) -> Iterator[str]:
        """Names of the plain files. Raises MemberError: archive_corrupt, archive_unsupported, unreadable_source."""
        if self._parquet is not None:
            with reading(self._path.name):
                yield from self._parquet.names()
        elif self._zip is not None:
            yield from self._zip.infos
        else:
            yield from self._tar.members

    @property
    def refused(self) -> Mapping[str, str]:
        """Members that are no plain files -> what they are."""
        return self._zip.refused if self._zip is not None else self._tar.refused

    @property
    def notes(self) -> list[str]:
        """What is odd about the archive as a whole, or is not read of it."""
        notes = list(self._tar.notes)
        if self._parquet is not None:
            notes += [f"{column} is not read" for column in self._parquet.unread]
        if self._zip is not None and self._zip.unnamed_encoding:
            names = self._zip.unnamed_encoding
            notes.append(f"{len(names):,} names are in an unknown encoding; the first is shown as {names[0][:80]!r}")
        return notes

    def folder(self, member: str) -> str | None:
        """The label of a member of a Parquet file, where it is not part of its name."""
        return None if self._parquet is None else self._parquet.folders.get(member)

    def identity(self, member: str) -> str | None:
        """A text that members with the same bytes share: links of a tar. None where the name alone counts."""
        span = self._tar.members.get(member)
        return None if span is None else f"{span.offset}+{span.size}"

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
        """Free what was read ahead: the rows of a Parquet file take much memory."""
        if self._parquet is not None:
            self._parquet.let_go()

    def _open_in_zip(self, archive: ZipMembers, member: str, largest_bytes: int) -> IO[bytes]:
        info = archive.infos.get(member) or archive.infos.get(member_name(member.replace("\\", "/")))
        if info is None:
            raise self._missing(member, archive.refused)
        if info.flag_bits & 1:
            raise MemberError("encrypted", f"{member!r} wants a password")
        if info.file_size > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {info.file_size:,} bytes, limit {largest_bytes:,}")
        return archive.open(info)

    def _open_in_parquet(self, rows: ParquetMembers, member: str, largest_bytes: int) -> IO[bytes]:
        try:
            content = rows.read(member)
        except KeyError:
            raise self._missing(member, {}) from None
        except PathInRowError as error:
            found = f"{self._path.name}: {error}: use the file as a listing, with the path as source_uri"
            raise MemberError("archive_unsupported", found) from error
        if len(content) > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {len(content):,} bytes, limit {largest_bytes:,}")
        return io.BytesIO(content)

    def _open_in_tar(self, member: str, largest_bytes: int) -> IO[bytes]:
        span = self._tar.members.get(member_name(member))
        if span is None:
            raise self._missing(member, self._tar.refused)
        if span.size > largest_bytes:
            raise MemberError("too_large", f"{member!r}: {span.size:,} bytes, limit {largest_bytes:,}")
        return io.BufferedReader(_Window(self._path, span.offset, span.size))

    def _missing(self, member: str, refused: Mapping[str, str]) -> MemberError:
        what = refused.get(member_name(member))
        if what is None:
            return MemberError("missing_source", f"{self._path.name} has no member {member!r}")
        code = "archive_unsupported" if what == SPARSE else "outside_root"
        return MemberError(code, f"{member!r} is {what}")


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
