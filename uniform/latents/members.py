"""The arrays inside memory-mapped shards: a member is a view of the file's bytes, nothing is copied or unpickled."""

import ast
import math
import mmap
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uniform.errors import ShardError

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
    """One memory-mapped tar.

    Raises: ShardError where the file cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ShardError(f"{path}: cannot be read ({error}). Copy the shard again.") from error
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)

    def require_whole(self) -> None:
        """Raise ShardError where the file has become shorter since it was mapped: its lost pages would kill us."""
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
            raise ShardError(f"{self.path}: {what} at byte {offset}: {error}. The index or the shard lies.") from error
        return np.frombuffer(self.map, dtype, count, offset + begin).reshape(shape)

    def require_crc(self, offset: int, length: int, crc32: int, what: str) -> None:
        """Raise ShardError where the member's bytes do not have the index's checksum."""
        found = zlib.crc32(memoryview(self.map)[offset : offset + length])
        if found != crc32:
            raise ShardError(
                f"{self.path}: {what} at byte {offset} is damaged (crc32 {found:08x}, the index has {crc32:08x}). "
                f"Copy the shard again, or run `uniform shards lint {self.path.parent}`."
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


class Shards:
    """The shards of one folder, mapped when first asked for."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.names = names
        self._open: dict[int, Shard] = {}

    def __getitem__(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = Shard(self.folder / self.names[number])
        return shard
