"""The members of a shard's tar in order, and the arrays in them. Nothing is unpacked or unpickled."""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from uniform.errors import ShardError

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Entry:
    """A member as it stands in a tar."""

    name: str
    offset: int
    content: bytes


def walk(path: Path, name: str | None = None) -> Iterator[Entry]:
    """Every member of a tar, in order, with its bytes.

    Raises: ShardError where the file is missing, cut, damaged, or holds anything but plain files with plain names.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            yield from _entries(file, name)
    except OSError as error:
        raise ShardError(f"{name}: cannot be read ({error.strerror}). Is the shard still there?") from error


def _entries(file: IO[bytes], name: str) -> Iterator[Entry]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if not info.isreg() or "/" in info.name or "\\" in info.name or info.name.startswith("."):
                    raise ShardError(
                        f"{name}: member '{info.name}' is not a plain file of the shard's own folder; do not unpack it"
                    )
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if end > size:
                    break
                file.seek(info.offset_data)
                yield Entry(info.name, info.offset_data, file.read(info.size))
    except tarfile.TarError as error:
        raise ShardError(f"{name}: not a whole tar file ({error}). Make the unit again.") from error
    file.seek(end)
    if end > size or file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
        raise ShardError(f"{name}: the file ends after {size} bytes, in the middle of the shard. Make the unit again.")


def load_array(content: bytes, what: str) -> np.ndarray[Any, Any]:
    """A .npy file's array of one dimension or more; never unpickles. Raises ShardError where it is not one."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ShardError(f"{what}: not a .npy array ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise ShardError(f"{what}: not a .npy array of one dimension or more")
    return array
