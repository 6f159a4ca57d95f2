"""The constant tensors of a TensorFlow Lite file, read as numbers: no interpreter, no TensorFlow.

A file of this kind is a FlatBuffer: tables whose fields are found through relative offsets. Every offset and length is
checked against the file before anything is read. Quantised tensors come back as float32: scale x (value - zero point).
Source: the published schema (schema.fbs, version 3) of TensorFlow Lite.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniform.errors import WeightsError

MOST_BYTES = 64_000_000
_MOST_TENSORS = 10_000
_TYPES = {0: "<f4", 2: "<i4", 9: "<i1"}
"""Numbers of the schema's element types that are read here: float32, int32, int8."""


class _DamagedError(Exception):
    """An offset or a length that does not fit the file."""


@dataclass(frozen=True)
class _Bytes:
    content: bytes

    def number(self, form: str, at: int) -> int:
        size = struct.calcsize(form)
        if at < 0 or at + size > len(self.content):
            raise _DamagedError(f"offset {at:,} lies outside the file")
        value: int = struct.unpack_from(form, self.content, at)[0]
        return value

    def table(self, at: int) -> "_Table":
        return _Table(self, at + self.number("<I", at))

    def vector(self, at: int, item_bytes: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are."""
        start = at + self.number("<I", at)
        count = self.number("<I", start)
        if start + 4 + count * item_bytes > len(self.content):
            raise _DamagedError(f"a vector of {count:,} items at {start:,} is longer than the file")
        return start + 4, count

    def array(self, at: int, dtype: str) -> np.ndarray:
        start, count = self.vector(at, np.dtype(dtype).itemsize)
        return np.frombuffer(self.content, dtype, count, start)


@dataclass(frozen=True)
class _Table:
    file: _Bytes
    at: int

    def field(self, index: int) -> int | None:
        """Place of a field's value; None where the file leaves it out."""
        layout = self.at - self.file.number("<i", self.at)
        if 4 + 2 * index >= self.file.number("<H", layout):
            return None
        offset = self.file.number("<H", layout + 4 + 2 * index)
        return self.at + offset if offset else None

    def tables(self, index: int) -> list["_Table"]:
        place = self.field(index)
        if place is None:
            return []
        start, count = self.file.vector(place, 4)
        if count > _MOST_TENSORS:
            raise _DamagedError(f"{count:,} tables; {_MOST_TENSORS:,} at most are read")
        return [self.file.table(start + 4 * i) for i in range(count)]

    def array(self, index: int, dtype: str) -> np.ndarray:
        place = self.field(index)
        return np.zeros(0, dtype) if place is None else self.file.array(place, dtype)

    def number(self, index: int, form: str) -> int:
        place = self.field(index)
        return 0 if place is None else self.file.number(form, place)


def read_tflite(path: Path) -> list[tuple[str, Tensor]]:
    """Name and numbers of every constant tensor, in the file's order; float32, or int32 as it stands.

    A name may stand twice, and long names hold several, divided by semicolons: they are given as they are.
    Raises: WeightsError for a file that is missing, too large, of another kind, or damaged.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES or content[4:8] != b"TFL3":
            raise _DamagedError("it is no TensorFlow Lite file of at most 64 MB")
        return list(_tensors(_Bytes(content)))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found. Give the folder that holds it.") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except (_DamagedError, struct.error, ValueError) as error:
        raise WeightsError(f"{path}: refused: {error}. It is damaged or another file: fetch it again.") from error


def _tensors(file: _Bytes) -> Iterator[tuple[str, Tensor]]:
    model = file.table(0)
    graphs, buffers = model.tables(2), model.tables(4)
    if len(graphs) != 1:
        raise _DamagedError(f"{len(graphs)} graphs; wanted one")
    total = 0
    for tensor in graphs[0].tables(0):
        index = tensor.number(2, "<I")
        if index >= len(buffers):
            raise _DamagedError(f"buffer {index:,} of {len(buffers):,}")
        raw = buffers[index].array(0, "<u1")
        name = tensor.array(3, "<u1").tobytes().decode("utf-8", "replace")
        kind = tensor.number(1, "<b")
        if raw.size and kind in _TYPES:
            total += raw.size  # many tensors may name one buffer
            if total > MOST_BYTES:
                raise _DamagedError(f"tensors of more than {MOST_BYTES:,} bytes")
            yield name, _numbers(raw, _TYPES[kind], tensor, name)


def _numbers(raw: np.ndarray, dtype: str, tensor: _Table, name: str) -> Tensor:
    shape = tuple(int(side) for side in tensor.array(0, "<i4"))
    if any(side < 0 for side in shape) or int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize != raw.size:
        raise _DamagedError(f"{name}: {raw.size:,} bytes for the shape {shape}")
    values = raw.view(dtype).reshape(shape)
    place = tensor.field(4)
    quantised = None if place is None else tensor.file.table(place)
    scale = np.zeros(0, "<f4") if quantised is None else quantised.array(2, "<f4")
    if quantised is None or not scale.size:
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    axis = quantised.number(6, "<i")
    zero = quantised.array(3, "<i8")
    sides = [1] * len(shape)
    if scale.size > 1:
        if not 0 <= axis < len(shape) or scale.size != shape[axis] or zero.size not in (0, scale.size):
            raise _DamagedError(f"{name}: {scale.size:,} scales along axis {axis} of the shape {shape}")
        sides[axis] = scale.size
    shift = zero.astype(np.float32).reshape(sides if zero.size == scale.size else [1] * len(shape)) if zero.size else 0
    return torch.from_numpy(((values.astype(np.float32) - shift) * scale.reshape(sides)).astype(np.float32))
