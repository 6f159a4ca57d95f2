"""Table of contents of an uncompressed tar archive, read by its headers alone.

Read: ustar, old GNU and pax archives, long names, hard links, symbolic links inside the archive, and archives joined by
`cat`. Refused by name: sparse files, parts of several volumes, links that lead elsewhere, devices. Header records have
a size limit. What is not read is counted.
"""

import os
import posixpath
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 512
RECORD_BYTES = 1_000_000
"""Of one record with a long name or with pax keys. The longest path of Linux has 4,096 bytes."""
PADDING_BYTES = 64 << 20
"""Zeros after an end mark that are searched for a second archive."""
LINK_HOPS = 8
SPARSE = "a sparse file; pack the archive again without -S"


@dataclass(frozen=True)
class Span:
    """Where the content of a member lies in the archive."""

    offset: int
    size: int


@dataclass
class TarContents:
    """Members of a tar archive."""

    members: dict[str, Span] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Member that is no plain file -> what it is."""
    notes: list[str] = field(default_factory=list)
    """What is odd about the archive as a whole."""
    _links: dict[str, str] = field(default_factory=dict)

    def _add(self, name: str, span: Span) -> None:
        self.refused.pop(name, None)
        self._links.pop(name, None)
        self.members[name] = span  # of members with one name the last counts, as for tar itself

    def _refuse(self, name: str, what: str) -> None:
        self.members.pop(name, None)
        self._links.pop(name, None)
        self.refused[name] = what

    def _link(self, name: str, target: str) -> None:
        self.members.pop(name, None)
        self.refused.pop(name, None)
        self._links[name] = target

    def _resolve_links(self) -> None:
        for name in self._links:
            target, hops = name, 0
            while target in self._links and hops < LINK_HOPS:
                target, hops = self._links[target], hops + 1
            if target in self.members:
                self.members[name] = self.members[target]
            else:
                self.refused[name] = f"a link to {target!r}, which is no file of the archive"


def member_name(name: str) -> str:
    """The name of a member without "./" before it."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def read_tar(path: Path) -> TarContents:
    """The members of the tar archive at `path`. Raises tarfile.TarError where it does not begin as one; OSError."""
    contents = TarContents()
    with path.open("rb") as file:
        _Reader(file, contents).read()
    contents._resolve_links()
    return contents


class _Reader:
    """Walks through the headers of an archive."""

    def __init__(self, file: BinaryIO, contents: TarContents) -> None:
        self._file, self._contents = file, contents
        self._size = os.fstat(file.fileno()).st_size
        self._position = 0
        self._global: dict[str, str] = {}
        self._pax: dict[str, str] = {}
        self._long: dict[str, str] = {}

    def read(self) -> None:
        while True:
            try:
                block = self._read(self._position, BLOCK_BYTES)
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                if not self._skip_zeros():
                    return
                continue
            except (tarfile.HeaderError, ValueError, OverflowError) as error:
                self._end_without_mark(error)
                return
            self._position += BLOCK_BYTES
            self._member(header, block)

    def _end_without_mark(self, error: Exception) -> None:
        """Raises tarfile.ReadError where nothing was read; otherwise notes where reading ended."""
        if self._position == 0:
            raise tarfile.ReadError(f"not a tar archive ({error})") from error
        if self._position >= self._size:
            self._contents.notes.append("it has no end mark: it may have been cut")
        else:
            left = self._size - self._position
            self._contents.notes.append(
                f"no header at byte {self._position:,}: the {left:,} bytes from there are unread"
            )

    def _skip_zeros(self) -> bool:
        """Go to the next block that is not empty; False where the archive ends."""
        begin, limit = self._position, min(self._size, self._position + PADDING_BYTES)
        while self._position < limit:
            chunk = self._read(self._position, min(1 << 20, limit - self._position))
            stripped = chunk.lstrip(b"\0")
            if stripped:
                self._position += (len(chunk) - len(stripped)) // BLOCK_BYTES * BLOCK_BYTES
                return True
            self._position += len(chunk)
        if self._position < self._size:
            self._contents.notes.append(f"{self._size - self._position:,} bytes far after its end mark are unread")
        elif self._position - begin < 2 * BLOCK_BYTES:
            self._contents.notes.append("half of its end mark is missing: it may have been cut")
        return False

    def _member(self, header: tarfile.TarInfo, block: bytes) -> None:
        """Take in one header, and go on behind its content."""
        kind = header.type
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            target = self._global if kind == tarfile.XGLTYPE else self._pax
            target.update(_pax_records(self._record(header)))
            return
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
            self._long[key] = self._record(header).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return
        keys = {**self._global, **self._pax}
        self._pax, long, self._long = {}, self._long, {}
        name = member_name(keys.get("path") or long.get("path") or header.name)
        link = keys.get("linkpath") or long.get("linkpath") or header.linkname
        size = _size(keys, header)
        if kind == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_blocks(block)
        span = Span(self._position, size)
        sparse = kind == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in keys)
        if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE):
            self._take_file(member_name(keys.get("GNU.sparse.name", name)), header, span, sparse=sparse)
        elif kind == tarfile.LNKTYPE:
            self._contents._link(name, member_name(link))
        elif kind == tarfile.SYMTYPE:
            self._contents._link(name, _joined(name, link))
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            self._contents._refuse(name, "a device or a pipe")
        elif kind not in (tarfile.DIRTYPE, b"D", b"V"):
            self._contents._refuse(name, f"of type {kind!r}, which is not read")
        if kind not in _WITHOUT_CONTENT:
            self._position += -(-size // BLOCK_BYTES) * BLOCK_BYTES

    def _take_file(self, name: str, header: tarfile.TarInfo, span: Span, *, sparse: bool) -> None:
        if sparse:
            self._contents._refuse(name, SPARSE)
        elif not (header.type == tarfile.AREGTYPE and name.endswith("/")):
            self._contents._add(name, span)

    def _record(self, header: tarfile.TarInfo) -> bytes:
        """The content of a header record."""
        if not 0 <= header.size <= RECORD_BYTES:
            raise tarfile.ReadError(f"a header record of {header.size:,} bytes, limit {RECORD_BYTES:,}")
        content = self._read(self._position, header.size)
        self._position += -(-header.size // BLOCK_BYTES) * BLOCK_BYTES
        return content

    def _skip_sparse_blocks(self, block: bytes) -> None:
        more = block[482]
        while more:
            block = self._read(self._position, BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                raise tarfile.ReadError("the list of a sparse file is cut")
            more = block[504]
            self._position += BLOCK_BYTES

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        return self._file.read(size)


_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    b"V",
)


def _size(keys: dict[str, str], header: tarfile.TarInfo) -> int:
    text = keys.get("size", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError(f"a member of size {text[:40]!r}")
    size = int(text) if text else header.size
    if not 0 <= size < 1 << 62:
        raise tarfile.ReadError(f"a member of {size} bytes")
    return size


def _joined(name: str, link: str) -> str:
    """The member that a symbolic link names; a name that no member has where it leads out of the archive."""
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return link if link.startswith("/") or joined.startswith("../") else joined


def _pax_records(content: bytes) -> dict[str, str]:
    """The keys of a pax record: lines of "<length> <key>=<value>". Raises tarfile.ReadError."""
    found: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position] != 0:
        digits, space, _ = content[position : position + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = content[position + len(digits) + 1 : position + length - 1]
        key, equals, value = record.partition(b"=")
        if length <= len(digits) + 2 or position + length > len(content) or not equals:
            raise tarfile.ReadError(f"a damaged pax record at byte {position} of it")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += length
    return found
