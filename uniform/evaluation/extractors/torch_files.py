"""Files that torch writes, read as tensors only: state dicts of `torch.save` (zip, and the form before torch 1.6) and
TorchScript archives. Nothing in them is run, and neither `torch.load` nor `torch.jit.load` is called.

Every size that a file declares is held against the bytes that it has, before anything of that size is made.
Source: the layouts that torch 2.11 writes and reads (`torch/serialization.py`, `torch/jit`).
"""

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniform.evaluation.extractors.inert_pickle import (
    ArrayClaim,
    Call,
    InertMachine,
    PickleRefusedError,
    TensorClaim,
    array_claim,
)

LINE_BYTES = 4_096
ENTRIES = 50_000
"""Members of a zip archive; the largest known weights file has 1,400."""
NODES = 1_000_000
DEPTH = 64
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of the old form: its magic number."""
_LOCAL_HEAD = struct.Struct("<4s22xHH")


class ByteSource:
    """An open file, read by position. What is asked for beyond its end is refused, before memory is taken for it."""

    def __init__(self, file: BufferedReader) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, start: int, length: int) -> bytearray:
        """`length` bytes from byte `start` on. Raises PickleRefusedError where the file has no such bytes."""
        if start < 0 or length < 0 or start + length > self.size:
            raise PickleRefusedError(f"bytes {start:,} to {start + length:,} are wanted; the file has {self.size:,}")
        content = bytearray(length)
        self.file.seek(start)
        read = self.file.readinto(content)
        if read != length:
            raise PickleRefusedError("the file was cut short while it was read")
        return content


class Cursor:
    """A stretch of a file, read from front to back. Never gives, and never makes room for, more than it has."""

    def __init__(self, source: ByteSource, start: int, end: int) -> None:
        self.source = source
        self.position = start
        self.end = end

    def read(self, length: int) -> bytes:
        """Up to `length` bytes."""
        content = bytes(self.source.read(self.position, max(0, min(length, self.end - self.position))))
        self.position += len(content)
        return content

    def readline(self) -> bytes:
        """Up to the next line break; a name that a pickle spells so has no more than `LINE_BYTES`."""
        head = bytes(self.source.read(self.position, min(LINE_BYTES, self.end - self.position)))
        line = head[: head.find(b"\n") + 1] or head
        self.position += len(line)
        return line


Runs = Mapping[str, tuple[int, int]]
"""First byte and length of every run of numbers, by storage key."""


@dataclass(frozen=True)
class TorchFile:
    """What a file claims to hold."""

    form: str
    """"state dict", "old state dict" or "TorchScript"."""
    value: Any
    """The unpickled value: dictionaries, records, and `TensorClaim`s."""
    source: ByteSource
    runs: Runs


@contextlib.contextmanager
def zip_archive(source: ByteSource) -> Iterator[zipfile.ZipFile]:
    """The zip archive that a file is. Raises PickleRefusedError for one that is damaged, at opening or later."""
    source.file.seek(0)
    try:
        with zipfile.ZipFile(source.file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OverflowError) as error:
        # Python's reader promises the first only; damaged bytes raise the others.
        raise PickleRefusedError(f"not a whole zip archive ({str(error) or type(error).__name__})") from error


def is_old_form(head: bytes) -> bool:
    """Whether a file that begins with `head` is as `torch.save` wrote before version 1.6."""
    return head.startswith(_LEGACY_HEAD)


def read_zip(source: ByteSource, inert_names: Collection[str] = ()) -> TorchFile:
    """The claims of a zip archive of torch.

    Raises: PickleRefusedError.
    """
    with zip_archive(source) as archive:
        members = archive.infolist()
        if len(members) > ENTRIES:
            raise PickleRefusedError(f"{len(members):,} members; {ENTRIES:,} at most")
        by_name = {member.filename: member for member in members}
        if len(by_name) != len(members):
            raise PickleRefusedError("two members of one name")
        pickles = [name for name in by_name if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise PickleRefusedError(f"{len(pickles)} members called data.pkl, wanted 1: not an archive of torch")
        root = pickles[0].removesuffix("data.pkl")
        scripted = f"{root}constants.pkl" in by_name or any(name.startswith(f"{root}code/") for name in by_name)
        order = by_name.get(f"{root}byteorder")
        if order is not None and bytes(source.read(*_span(source, order))) != b"little":
            raise PickleRefusedError("numbers in another byte order than little-endian")
        start, length = _span(source, by_name[pickles[0]])
        machine = InertMachine(inert_names=inert_names, scripted=scripted)
        value = machine.run(Cursor(source, start, start + length))
        prefix = f"{root}data/"
        runs = {name.removeprefix(prefix): _span(source, by_name[name]) for name in by_name if name.startswith(prefix)}
    return TorchFile("TorchScript" if scripted else "state dict", value, source, runs)


def _span(source: ByteSource, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where an uncompressed member's bytes are. The archive's own numbers are not believed."""
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
        raise PickleRefusedError(f"{member.filename} is compressed or encrypted; torch stores plain bytes")
    magic, name_bytes, extra_bytes = _LOCAL_HEAD.unpack(source.read(member.header_offset, _LOCAL_HEAD.size))
    start = member.header_offset + _LOCAL_HEAD.size + name_bytes + extra_bytes
    if magic != b"PK\x03\x04" or start + member.file_size > source.size:
        raise PickleRefusedError(
            f"{member.filename} claims {member.file_size:,} bytes; the file has {source.size:,} in all"
        )
    return start, member.file_size


def read_old_form(source: ByteSource, inert_names: Collection[str] = ()) -> TorchFile:
    """The claims of a file as `torch.save` wrote before version 1.6: five pickles, then the numbers.

    Raises: PickleRefusedError.
    """
    cursor = Cursor(source, 0, source.size)
    magic, protocol, system, value, keys = (InertMachine(inert_names=inert_names).run(cursor) for _ in range(5))
    position = cursor.position
    if magic != _LEGACY_MAGIC or protocol != 1001 or not isinstance(system, dict) or not isinstance(keys, list):
        raise PickleRefusedError("not the head that torch wrote before version 1.6")
    if system.get("little_endian") is not True:
        raise PickleRefusedError("numbers in another byte order than little-endian")
    tensors = [claim for claim in claims(value).values() if isinstance(claim, TensorClaim)]
    sizes = {claim.storage.key: _item_bytes(claim.storage.dtype) for claim in tensors}
    runs: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        (elements,) = struct.unpack("<q", source.read(position, 8))
        length = elements * sizes.get(key, 0)
        if elements < 0 or key not in sizes or key in runs or position + 8 + length > source.size:
            raise PickleRefusedError(
                f"storage {key[:40]} claims {elements:,} numbers; {source.size - position - 8:,} bytes are left"
            )
        runs[key] = (position + 8, length)
        position += 8 + length
    return TorchFile("old state dict", value, source, runs)


def claims(value: Any) -> dict[str, TensorClaim | ArrayClaim]:
    """Every tensor inside nested dictionaries, lists and TorchScript objects, under its dotted name.

    Raises: PickleRefusedError for a value that is nested too deeply or that repeats itself too often.
    """
    found: dict[str, TensorClaim | ArrayClaim] = {}
    visited = 0

    def visit(item: Any, name: str, depth: int) -> None:
        nonlocal visited
        visited += 1
        if visited > NODES or depth > DEPTH:
            raise PickleRefusedError("tables inside tables without end")
        if isinstance(item, TensorClaim):
            found[name] = item
        elif isinstance(item, Call) and (array := array_claim(item)) is not None:
            found[name] = array
        elif isinstance(item, Call):
            visit(item.state, name, depth + 1)
        elif isinstance(item, dict | list | tuple):
            parts = item.items() if isinstance(item, dict) else enumerate(item)
            for key, part in parts:
                visit(part, f"{name}.{key}" if name else str(key), depth + 1)

    visit(value, "", 0)
    return found


def _item_bytes(dtype: str) -> int:
    kind: torch.dtype = getattr(torch, dtype)
    return kind.itemsize


def tensor_of(file: TorchFile, claim: TensorClaim | ArrayClaim) -> Tensor:
    """A tensor's numbers, copied out of the file once its claim has been checked. Raises PickleRefusedError."""
    if isinstance(claim, ArrayClaim):
        return torch.from_numpy(np.frombuffer(claim.content, claim.dtype).reshape(claim.shape).copy())
    _check(file, claim)
    kind: torch.dtype = getattr(torch, claim.storage.dtype)
    if 0 in claim.shape:
        return torch.empty(claim.shape, dtype=kind)
    start, length = file.runs[claim.storage.key]
    storage = torch.frombuffer(file.source.read(start, length), dtype=kind)
    return storage.as_strided(claim.shape, claim.strides, claim.offset).contiguous()


def _check(file: TorchFile, claim: TensorClaim) -> None:
    """Hold a tensor's claim against its storage, and the storage's against the file. Raises PickleRefusedError."""
    storage = claim.storage
    wanted = storage.elements * _item_bytes(storage.dtype)
    _, length = file.runs.get(storage.key, (0, 0))
    if wanted != length:
        raise PickleRefusedError(
            f"storage {storage.key[:40]} claims {storage.elements:,} {storage.dtype} ({wanted:,} bytes); "
            f"the file has {length:,} bytes there"
        )
    if 0 in claim.shape:
        return
    last = claim.offset + sum((size - 1) * step for size, step in zip(claim.shape, claim.strides, strict=True))
    if last >= storage.elements:
        raise PickleRefusedError(
            f"a tensor of shape {claim.shape} reaches number {last:,} of a storage of {storage.elements:,}"
        )
