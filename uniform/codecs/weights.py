"""Weight files: read without running what is inside, held against a layout key by key, known by their digest.

`.safetensors` is preferred. `.bin`, `.pt`, `.pth` and `.ckpt` are pickles and are only read with torch's
`weights_only=True`, which refuses anything but tensors and plain containers.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from uniform.atomic import write_bytes
from uniform.errors import WeightsError
from uniform.fingerprint import canonical_json, file_sha256

Shapes = dict[str, tuple[int, ...]]

LISTED_KEYS = 40
"""Keys that an error lists per kind; the rest is counted."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_shapes(path: Path) -> Shapes:
    """Key and shape of every tensor in a weight file, without reading the numbers.

    Raises: WeightsError for a file that is missing, cut short, of another format, or a pickle with code inside.
    """
    if path.suffix in _PICKLES:
        return {key: tuple(tensor.shape) for key, tensor in _read_pickle(path).items()}
    with _safetensors(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping


def read_state(path: Path, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a weight file: all of them, or those of `keys`. Raises WeightsError as `read_shapes` does."""
    if keys is None:
        return dict(each_tensor(path))
    wanted = set(keys)
    return {key: tensor for key, tensor in each_tensor(path, wanted) if key in wanted}


def each_tensor(path: Path, keys: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Key and tensor, one after the other: a file larger than the memory can be looked through."""
    if path.suffix in _PICKLES:
        yield from _read_pickle(path).items()
        return
    with _safetensors(path) as file:
        for key in file.keys() if keys is None else keys:
            yield key, file.get_tensor(key)


def is_weight_file(path: Path) -> bool:
    """Whether a file's name says that it holds tensors."""
    return path.suffix == ".safetensors" or path.suffix in _PICKLES


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}; {path.stat().st_size:,} bytes). "
            f"It was cut short or is something else: fetch it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise anything: torch's reader does not promise which
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: refused ({first}). Only tensors are read from such a file and nothing in it is run. It is cut "
            f"short, or holds more than weights: fetch it again, or give a .safetensors file."
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: holds {type(loaded).__name__}, not a table of tensors. Give the model's weights.")
    return loaded


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def require_layout(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse a weight file that is not the wanted model.

    Args:
        found, wanted: key and shape of every tensor.
        where: file and model, for the first line of the error.
    Raises: WeightsError that lists missing keys, surplus keys and other shapes.
    """
    missing = [key for key in wanted if key not in found]
    surplus = [key for key in found if key not in wanted]
    reshaped = [
        f"{key}: found {tuple(found[key])}, wanted {tuple(wanted[key])}"
        for key in wanted
        if key in found and tuple(found[key]) != tuple(wanted[key])
    ]
    groups = [("missing", missing), ("surplus", surplus), ("of another shape", reshaped)]
    complaints = [f"{len(items)} {name}:\n{_listed(items)}" for name, items in groups if items]
    if complaints:
        raise WeightsError(
            f"{where}: {len(found)} tensors found, {len(wanted)} wanted, and they do not agree.\n"
            + "\n".join(complaints)
            + "\nThese are the weights of another model or of another size: check which file was given."
        )


def _listed(items: list[str]) -> str:
    lines = [f"  {item}" for item in items[:LISTED_KEYS]]
    if len(items) > LISTED_KEYS:
        lines.append(f"  and {len(items) - LISTED_KEYS} more")
    return "\n".join(lines)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str, dtype: torch.dtype = torch.float32) -> None:
    """Give `module` (which may be on the meta device) exactly the tensors of `state`, as `dtype`.

    Raises: WeightsError where keys or shapes differ, or where a number is NaN or infinite.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    require_layout({key: tuple(tensor.shape) for key, tensor in state.items()}, wanted, where)
    require_finite(state.items(), where)
    module.load_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, strict=True, assign=True)


def require_finite(state: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse weights with NaN or infinity in them. Raises WeightsError that names the tensors."""
    broken = [key for key, tensor in state if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise WeightsError(f"{where}: NaN or infinity in {len(broken)} tensors:\n{_listed(broken)}\nFetch it again.")


def read_json(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises WeightsError where it is missing or not a JSON table."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}). Fetch the model again.") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: holds {type(values).__name__}, wanted a JSON table. Fetch the model again.")
    return values


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weight file, remembered beside it for as long as the file's size and time stay as they are.

    A folder that cannot be written costs the digest anew each time. `uniform weights verify` never trusts the memory.
    """
    status, memory = path.stat(), path.with_name(f".{path.name}.uniform-sha256.json")
    facts = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    remembered = _remembered(memory)
    if {key: remembered.get(key) for key in facts} == facts and isinstance(remembered.get("sha256"), str):
        return str(remembered["sha256"])
    sha256 = file_sha256(path)
    with contextlib.suppress(OSError):  # a read-only folder: the digest is right, it is only not remembered
        write_bytes(memory, json.dumps({**facts, "sha256": sha256}).encode())
    return sha256


def files_sha256(paths: Iterable[Path]) -> str:
    """One SHA-256 for several files: of their names and digests, whatever their order."""
    digests = {path.name: weights_sha256(path) for path in paths}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        return read_json(memory)
    except WeightsError:  # absent, or damaged: then nothing is remembered
        return {}
