"""The arrays inside shards, by positioned reads: a member is read where the index says, and nothing is unpickled."""

import ast
import contextlib
import math
import os
import struct
import weakref
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from uniform.errors import ShardError
from uniform.latents.shards.index import Places

NPY_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: ("<H", 10), 2: ("<I", 12), 3: ("<I", 12)}
"""By major version of .npy: how the header's length is written, and where the header begins."""
USUAL_HEADER_BYTES, MAX_HEADER_BYTES = 128, 4096


@lru_cache(maxsize=4096)
def parse_header(start: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and length in bytes of a .npy header that begins `start`.

    Raises: ValueError where it is not a header of a plain C-ordered array.
    """
    if start[:6] != NPY_MAGIC or len(start) < 12 or start[6] not in _LENGTHS:
        raise ValueError("no .npy header")
    form, begin = _LENGTHS[start[6]]
    (length,) = struct.unpack_from(form, start, 8)
    if begin + length > len(start):
        raise ValueError(f".npy header of {length} bytes is cut")
    try:
        fields = ast.literal_eval(start[begin : begin + length].decode("latin-1").strip())
        shape, dtype, order = tuple(fields["shape"]), np.dtype(fields["descr"]), fields["fortran_order"]
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ValueError(f".npy header cannot be read ({error})") from error
    if dtype.hasobject or order or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f".npy holds {dtype} in {'Fortran' if order else 'C'} order, shape {shape}")
    return shape, dtype, begin + length


class Shard:
    """One tar, or a fetched byte range of one, open for positioned reads.

    Nothing is mapped: where another program shortens a mapped file, reading the lost pages ends the process by SIGBUS.
    A positioned read of the same bytes is short, which is an error that names the file.
    Raises: ShardError where the file cannot be opened.
    """

    def __init__(self, path: Path, origin: str | None = None) -> None:
        """Open a file.

        Args:
            origin: where a fetched file came from, for errors; None for a local shard.
        """
        self.path, self.origin = path, origin
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error}). Copy the shard again.") from error
        weakref.finalize(self, os.close, self.handle)
        self.size = os.fstat(self.handle).st_size

    def read_into(self, offset: int, buffers: Sequence[Buffer], length: int) -> None:
        """Fill `buffers`, which have `length` bytes in all, with the bytes at `offset`.

        Raises: ShardError where the file has become shorter, or the disk fails.
        """
        try:
            if os.preadv(self.handle, buffers, offset) == length:
                return
        except OSError as error:
            raise self._failed(offset, error) from error
        content = self.read(offset, length)  # a large read may come in parts; a file that is too short raises
        begin = 0
        for buffer in buffers:
            with memoryview(buffer) as view, view.cast("B") as flat:
                flat[:] = content[begin : begin + len(flat)]
                begin += len(flat)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`. Raises: ShardError where the file has become shorter, or the disk fails."""
        parts: list[bytes] = []
        missing = length
        while missing:
            try:
                part = os.pread(self.handle, missing, offset + length - missing)
            except OSError as error:
                raise self._failed(offset, error) from error
            if not part:
                raise self._shorter(offset, length)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def array(self, offset: int, length: int, what: str) -> npt.NDArray[Any]:
        """The array in the .npy member at `offset`, read-only.

        Raises: ShardError that names the shard and `what` where these bytes are not such an array.
        """
        return self.array_of(self.read(offset, length), offset, what)

    def array_of(self, member: bytes, offset: int, what: str) -> npt.NDArray[Any]:
        """As `array`, of bytes that were read at `offset`."""
        try:
            start = member[:USUAL_HEADER_BYTES]
            if len(start) >= 12 and _header_length(start) > len(start):
                start = member[:MAX_HEADER_BYTES]
            shape, dtype, begin = parse_header(start[: _header_length(start)])
            count = math.prod(shape)
            if begin + count * dtype.itemsize != len(member):
                raise ValueError(f"header says {shape} {dtype}, the index says {len(member)} bytes")
        except ValueError as error:
            raise ShardError(f"{self.path}: {what} at byte {offset}: {error}. Index and shard do not match.") from error
        return np.frombuffer(member, dtype, count, begin).reshape(shape)

    def require_crc(self, offset: int, length: int, crc32: int, what: str) -> None:
        """Raise ShardError where the member's bytes do not have the index's checksum."""
        self.compare_crc(zlib.crc32(self.read(offset, length)), crc32, offset, what)

    def compare_crc(self, found: int, crc32: int, offset: int, what: str) -> None:
        """As `require_crc`, of bytes that were read at `offset` and have the checksum `found`."""
        if found != crc32:
            fix = f"Copy the shard again, or run `uniform shards lint {self.path.parent}`."
            if self.origin is not None:
                fix = f"It came from {self.origin}; fix it there, then remove this file: it is fetched again."
            raise ShardError(
                f"{self.path}: {what} at byte {offset} is damaged (crc32 {found:08x}, the index has {crc32:08x}). {fix}"
            )

    def prefetch(self, offset: int, length: int) -> None:
        """Ask the kernel to read these bytes soon; a file system that cannot is read when the bytes are needed."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.handle, offset, length, os.POSIX_FADV_WILLNEED)

    def _shorter(self, offset: int, length: int) -> ShardError:
        now = os.fstat(self.handle).st_size
        if now < self.size:
            return ShardError(
                f"{self.path}: had {self.size} bytes when the run began, has {now} now. Copy the shard again, "
                f"under another name first and then renamed."
            )
        return ShardError(f"{self.path}: has {now} bytes; {length} at byte {offset} are wanted. Copy the shard again.")

    def _failed(self, offset: int, error: OSError) -> ShardError:
        return ShardError(
            f"{self.path}: cannot be read at byte {offset} ({error.strerror}). Check the disk or the network share."
        )


def _header_length(start: bytes) -> int:
    if start[:6] != NPY_MAGIC or len(start) < 12 or start[6] not in _LENGTHS:
        raise ValueError("no .npy header")
    form, begin = _LENGTHS[start[6]]
    (length,) = struct.unpack_from(form, start, 8)
    return int(begin + length)


class Members(Protocol):
    """Finds the members of a source's clips, in local or remote shards."""

    def find(self, what: str, row: int, shard: int, offset: int) -> tuple[Shard, int]:
        """The open file that holds a member, and the member's first byte in it.

        Args:
            what: kind of member: a modality, its `std_kind`, or the `text_kind` of a caption set.
            row: of the index.
            shard: number of the shard that holds it.
            offset: of the member in that shard.
        Raises: ShardError, RemoteError.
        """
        ...

    def prefetch(self, what: str, places: Places, rows: npt.NDArray[np.int64]) -> None:
        """Start reading these members in advance."""
        ...


def std_kind(modality: str) -> str:
    """Kind of member of the posterior's std of a modality."""
    return f"{modality} std"


def text_kind(caption_set: str) -> str:
    """Kind of member of a caption set's texts."""
    return f"text '{caption_set}'"


class Shards:
    """The shards of one local folder, opened when first asked for."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.names = names
        self._open: dict[int, Shard] = {}

    def __getitem__(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = Shard(self.folder / self.names[number])
        return shard

    def find(self, what: str, row: int, shard: int, offset: int) -> tuple[Shard, int]:
        """See `Members`."""
        return self[shard], offset

    def prefetch(self, what: str, places: Places, rows: npt.NDArray[np.int64]) -> None:
        """Ask the kernel to read these members soon, all at once instead of one read after another."""
        part = places.take(rows)
        for shard, offset, length in zip(part.shard.tolist(), part.offset.tolist(), part.length.tolist(), strict=True):
            self[shard].prefetch(offset, length)
