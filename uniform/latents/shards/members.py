"""The arrays inside memory-mapped shards: a member is a view of the file's bytes, nothing is copied or unpickled."""

import ast
import math
import mmap
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
    """One memory-mapped tar, or a fetched byte range of one.

    Raises: ShardError where the file cannot be mapped.
    """

    def __init__(self, path: Path, origin: str | None = None) -> None:
        """Map a file.

        Args:
            origin: where a fetched file came from, for errors; None for a local shard.
        """
        self.path, self.origin = path, origin
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ShardError(f"{path}: cannot be read ({error}). Copy the shard again.") from error
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)

    def require_full_length(self) -> None:
        """Raise ShardError where the file became shorter since it was mapped: reading lost pages ends the process."""
        size = self.map.size()
        if size < len(self.bytes):
            raise ShardError(f"{self.path}: had {len(self.bytes)} bytes when the run began, has {size} now.")

    def array(self, offset: int, length: int, what: str) -> npt.NDArray[Any]:
        """The array in the .npy member at `offset`, as a read-only view of the file.

        Raises: ShardError that names the shard and `what` where these bytes are not such an array.
        """
        start = self.map[offset : offset + min(length, USUAL_HEADER_BYTES)]
        try:
            if len(start) >= 12 and _header_length(start) > len(start):
                start = self.map[offset : offset + min(length, MAX_HEADER_BYTES)]
            shape, dtype, begin = parse_header(start[: _header_length(start)])
            count = math.prod(shape)
            if begin + count * dtype.itemsize != length:
                raise ValueError(f"header says {shape} {dtype}, the index says {length} bytes")
        except ValueError as error:
            raise ShardError(f"{self.path}: {what} at byte {offset}: {error}. Index and shard do not match.") from error
        return np.frombuffer(self.map, dtype, count, offset + begin).reshape(shape)

    def require_crc(self, offset: int, length: int, crc32: int, what: str) -> None:
        """Raise ShardError where the member's bytes do not have the index's checksum."""
        found = zlib.crc32(memoryview(self.map)[offset : offset + length])
        if found != crc32:
            fix = f"Copy the shard again, or run `uniform shards lint {self.path.parent}`."
            if self.origin is not None:
                fix = f"It came from {self.origin}; fix it there, then remove this file: it is fetched again."
            raise ShardError(
                f"{self.path}: {what} at byte {offset} is damaged (crc32 {found:08x}, the index has {crc32:08x}). {fix}"
            )

    def prefetch(self, offset: int, length: int) -> None:
        """Ask the kernel to read these bytes soon."""
        begin = offset - offset % mmap.PAGESIZE
        self.map.madvise(mmap.MADV_WILLNEED, begin, offset + length - begin)


def _header_length(start: bytes) -> int:
    if start[:6] != NPY_MAGIC or len(start) < 12 or start[6] not in _LENGTHS:
        raise ValueError("no .npy header")
    form, begin = _LENGTHS[start[6]]
    (length,) = struct.unpack_from(form, start, 8)
    return int(begin + length)


class Members(Protocol):
    """Finds the members of a source's clips, in local or remote shards."""

    def find(self, what: str, row: int, shard: int, offset: int) -> tuple[Shard, int]:
        """The mapped file that holds a member, and the member's first byte in it.

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
    """The shards of one local folder, mapped when first asked for."""

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
        """Ask the kernel to read these members soon, all at once instead of one fault after another."""
        part = places.take(rows)
        for shard, offset, length in zip(part.shard.tolist(), part.offset.tolist(), part.length.tolist(), strict=True):
            self[shard].prefetch(offset, length)
