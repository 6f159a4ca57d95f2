"""Weights files from strangers: tensors are read, nothing is run, and only the wanted layout is accepted.

Forms: safetensors; state dicts of `torch.save`, old and new; TorchScript archives, as tensors only; npz. The first
bytes decide the form, never the name. Which tensors a network wants is known beforehand: a missing, surplus or
mis-shaped tensor, or a number that is not finite, ends the reading with an error that names it.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import PublishedFile
from uniform.evaluation.extractors.contract import WeightsFile
from uniform.evaluation.extractors.inert_pickle import PickleRefusedError
from uniform.evaluation.extractors.torch_files import (
    ByteSource,
    TorchFile,
    claims,
    is_old_form,
    read_old_form,
    read_zip,
    tensor_of,
    zip_archive,
)

Shapes = Mapping[str, tuple[int, ...]]

LISTED = 20
"""Keys that an error lists per kind; the rest is counted."""
STATE_DICT = frozenset({"safetensors", "state dict", "old state dict"})
SCRIPT = frozenset({"TorchScript"})
NPZ = frozenset({"npz"})
NUMPY_NAMES = frozenset(
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")
) | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}
"""Names that a checkpoint with NumPy arrays beside its weights holds; they are never called here."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which tensors a file must hold, and under which names."""

    shapes: Shapes
    """Wanted shape of every tensor, by the network's name of it."""
    forms: frozenset[str] = STATE_DICT
    optional: Callable[[str], bool] = lambda name: name.endswith(".num_batches_tracked")
    """Tensors that a file may leave out: zeros take their place."""
    inside: str | None = None
    """Key of the table that holds the weights, where other things stand beside it ("model")."""
    rename: Callable[[str], str] = str
    """A name in the file to the network's name."""
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that the file holds but the method defines: they must agree to 1e-4 of their maximum."""
    leading_one: bool = False
    """Stored tensors may have one more dimension, of length 1, in front."""
    unused: Shapes = field(default_factory=dict)
    """Tensors of other networks that the file may hold beside the wanted ones; they are not read."""
    inert_names: Collection[str] = ()
    """Names that a pickle may hold besides those of tensors."""


def load_network(network: nn.Module, path: Path, layout: Layout, published: PublishedFile | None = None) -> WeightsFile:
    """Give `network`, which may be on the meta device, the tensors of a file as float32, and put it into use.

    Raises: WeightsError.
    """
    state, record = read_tensors(path, layout, published)
    own = network.state_dict()
    other = [name for name, tensor in state.items() if tensor.is_floating_point() != own[name].is_floating_point()]
    if other:
        raise WeightsError(
            f"{path}: numbers of another type in {len(other)} tensors:\n{_listed(other)}\nFetch it again."
        )
    network.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
        strict=True,
        assign=True,
    )
    network.eval().requires_grad_(False)
    return record


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a network."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def read_tensors(
    path: Path, layout: Layout, published: PublishedFile | None = None
) -> tuple[dict[str, Tensor], WeightsFile]:
    """The tensors of `layout` from an untrusted file, and the file's digest.

    Args:
        path: the file.
        layout: what it must hold.
        published: what its publisher states about it; whether the digest is that one stands in the record.
    Returns: tensors by the network's names, in the file's precision; the record of the file.
    Raises: WeightsError that says where, what was found, what was wanted and what to do.
    """
    try:
        with path.open("rb") as file:
            source = ByteSource(file)
            record = _record(path, source, published)
            return _read(path, source, layout), record
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found. Fetch it, or give the folder that holds it.") from error
    except PickleRefusedError as error:
        raise WeightsError(
            f"{path}: refused: {error}. Only tensors are read from such a file and nothing in it is run. "
            f"It is damaged, or is not the published file: fetch it again."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error


def file_record(path: Path, published: PublishedFile | None = None) -> WeightsFile:
    """Size and digest of a weights file, and whether it is the published one. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            return _record(path, ByteSource(file), published)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error


def _record(path: Path, source: ByteSource, published: PublishedFile | None) -> WeightsFile:
    source.file.seek(0)
    sha256 = hashlib.file_digest(source.file, "sha256").hexdigest()
    known = published is not None and published.sha256 == sha256
    if published is not None and published.sha256 is None and published.md5 is not None:
        source.file.seek(0)
        md5 = hashlib.file_digest(source.file, lambda: hashlib.md5(usedforsecurity=False))
        known = md5.hexdigest() == published.md5
    if published is not None and published.sha256_head is not None:
        known = sha256.startswith(published.sha256_head)
    return WeightsFile(name=path.name, bytes=source.size, sha256=sha256, known=known)


def _read(path: Path, source: ByteSource, layout: Layout) -> dict[str, Tensor]:
    """The tensors of `layout` by the network's names, all of them, checked."""
    head = bytes(source.read(0, min(32, source.size)))
    if head[:4] == b"PK\x03\x04":
        with zip_archive(source) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                _require_form(path, "npz", layout)
                return _finished(path, layout, *_npz(archive))
        return _from_torch(path, read_zip(source, layout.inert_names), layout)
    if is_old_form(head):
        return _from_torch(path, read_old_form(source, layout.inert_names), layout)
    if head[8:9] == b"{":
        _require_form(path, "safetensors", layout)
        return _finished(path, layout, *_safetensors(path))
    raise WeightsError(
        f"{path}: neither safetensors nor a file of torch or NumPy (it begins with {head[:8]!r}). "
        f"A bare pickle is a program and is never read. Wanted: {', '.join(sorted(layout.forms))}."
    )


def _require_form(path: Path, form: str, layout: Layout) -> None:
    if form not in layout.forms:
        raise WeightsError(
            f"{path}: this is a file of the form '{form}'; wanted: {', '.join(sorted(layout.forms))}. "
            f"Give the file that the network's authors publish."
        )


Reader = Callable[[str], Tensor]
"""Gives the numbers of the tensor of a name in the file."""


def _from_torch(path: Path, file: TorchFile, layout: Layout) -> dict[str, Tensor]:
    _require_form(path, file.form, layout)
    value = file.value
    if layout.inside is not None:
        if not isinstance(value, dict) or layout.inside not in value:
            raise WeightsError(f"{path}: no table '{layout.inside}' in it. Give the published checkpoint.")
        value = value[layout.inside]
    if file.form != "TorchScript" and not isinstance(value, dict):
        raise WeightsError(f"{path}: holds a {type(value).__name__}, not a table of tensors. Give a state dict.")
    found = claims(value)

    shapes = {name: claim.shape for name, claim in found.items()}
    return _finished(path, layout, shapes, lambda name: tensor_of(file, found[name]))


def _safetensors(path: Path) -> tuple[Shapes, Reader]:
    try:
        file: Any = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}). Fetch it again.") from error
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, file.get_tensor  # noqa: SIM118


def _npz(archive: zipfile.ZipFile) -> tuple[Shapes, Reader]:
    """Shapes and reader of an npz archive. Object arrays, which are pickles, are refused; sizes are checked first."""
    heads: dict[str, tuple[tuple[int, ...], np.dtype[Any], bool, int]] = {}
    for member in archive.infolist():
        with archive.open(member) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = read_head[version](stream)
            except (ValueError, KeyError, EOFError) as error:
                raise PickleRefusedError(f"{member.filename} is no NumPy array ({error})") from error
            if dtype.hasobject or dtype.kind not in "fiub" or dtype.itemsize > 8:
                raise PickleRefusedError(f"{member.filename} holds {dtype}; only plain numbers are read")
            name = member.filename.removesuffix(".npy")
            if name in heads:
                raise PickleRefusedError(f"two members called {name}")
            heads[name] = (tuple(shape), dtype, fortran, stream.seek(0, io.SEEK_CUR))

    def read(name: str) -> Tensor:
        shape, dtype, fortran, head_bytes = heads[name]
        wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with archive.open(f"{name}.npy") as stream:
            stream.read(head_bytes)
            content = stream.read(wanted)
            if len(content) != wanted or stream.read(1):
                raise PickleRefusedError(f"{name}: {len(content):,} bytes, but its head says {wanted:,}")
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))

    return {name: head[0] for name, head in heads.items()}, read


def _finished(path: Path, layout: Layout, shapes: Shapes, read: Reader) -> dict[str, Tensor]:
    """Every wanted tensor, by the network's name. The layout is checked before any number is read."""
    names = {layout.rename(name): name for name in shapes}
    if len(names) != len(shapes):
        raise WeightsError(f"{path}: two tensors would get one name. This is not the published file.")
    found = {name: tuple(shapes[stored]) for name, stored in names.items()}
    if layout.leading_one:
        found = {name: shape[1:] if shape[:1] == (1,) else shape for name, shape in found.items()}
    wanted = dict(layout.shapes) | {name: tuple(tensor.shape) for name, tensor in layout.constants.items()}
    _require_layout(path, found, wanted, layout)
    state: dict[str, Tensor] = {}
    broken = []
    for name, shape in wanted.items():
        if name not in found:
            state[name] = torch.zeros(shape, dtype=torch.long)
            continue
        tensor = read(names[name]).reshape(shape)
        if name not in layout.constants and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            broken.append(name)
        state[name] = tensor
    if broken:
        raise WeightsError(f"{path}: NaN or infinity in {len(broken)} tensors:\n{_listed(broken)}\nFetch it again.")
    for name, constant in layout.constants.items():
        limit = 1e-4 * float(constant[constant.isfinite()].abs().max())  # a mask holds minus infinity
        if not torch.allclose(state[name].double(), constant.double(), rtol=0, atol=limit):
            raise WeightsError(f"{path}: {name} differs from what the method defines. This is another network's file.")
    return {name: state[name] for name in layout.shapes}


def _require_layout(path: Path, found: Shapes, wanted: Shapes, layout: Layout) -> None:
    missing = [name for name in wanted if name not in found and not layout.optional(name)]
    surplus = [name for name in found if name not in wanted and layout.unused.get(name) != tuple(found[name])]
    reshaped = [
        f"{name}: found {tuple(found[name])}, wanted {tuple(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    groups = (("missing", missing), ("surplus", surplus), ("of another shape", reshaped))
    complaints = [f"{len(items)} {kind}:\n{_listed(items)}" for kind, items in groups if items]
    if complaints:
        raise WeightsError(
            f"{path}: {len(found)} tensors found, {len(wanted)} wanted, and they do not agree.\n"
            + "\n".join(complaints)
            + "\nThese are the weights of another network or of another size: give the published file."
        )


def _listed(items: list[str]) -> str:
    lines = [f"  {item[:200]}" for item in items[:LISTED]]
    return "\n".join([*lines, *([f"  and {len(items) - LISTED} more"] if len(items) > LISTED else [])])
