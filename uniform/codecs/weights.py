"""Read weight files without running code, check their layout key by key, and compute digests.

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
    """Key and shape of every tensor in a weight file, without reading the values.

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
    """Yield keys and tensors one by one, so that a file larger than memory can be read."""
    if path.suffix in _PICKLES:
        yield from _read_pickle(path).items()
        return
    with _safetensors(path) as file:
        for key in file.keys() if keys is None else keys:
            yield key, file.get_tensor(key)


def is_weight_file(path: Path) -> bool:
    """Whether the suffix of a file is that of a weight file."""
    return path.suffix == ".safetensors" or path.suffix in _PICKLES


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a complete safetensors file ({error}; {path.stat().st_size:,} bytes). "
            f"It is truncated or of another format: fetch it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not found") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise errors of any type in torch's reader
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: refused ({first}). Only tensors are read from such a file; no code in it runs. It is "
            f"truncated, or holds more than weights: fetch it again, or pass a .safetensors file."
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: holds {type(loaded).__name__}, not a table of tensors. Pass the model's weights.")
    return loaded


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def require_layout(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse a weight file with another layout than the expected one.

    Args:
        found, wanted: key and shape of every tensor.
        where: file and model, for the first line of the error.
    Raises: WeightsError that lists missing keys, surplus keys and different shapes.
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
            f"{where}: {len(found)} tensors found, {len(wanted)} wanted, and they differ.\n"
            + "\n".join(complaints)
            + "\nThese are weights of another model or size: check which file was passed."
        )


def _listed(items: list[str]) -> str:
    lines = [f"  {item}" for item in items[:LISTED_KEYS]]
    if len(items) > LISTED_KEYS:
        lines.append(f"  and {len(items) - LISTED_KEYS} more")
    return "\n".join(lines)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str, dtype: torch.dtype = torch.float32) -> None:
    """Give `module` (which may be on the meta device) exactly the tensors of `state`, as `dtype`.

    Raises: WeightsError where keys or shapes differ, or where a value is NaN or infinite.
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
    """SHA-256 of a weight file, cached beside it for as long as size and time of the file do not change.

    In a read-only folder it is computed each time. `uniform weights verify` never uses the cache.
    """
    status, cache = path.stat(), path.with_name(f".{path.name}.uniform-sha256.json")
    key = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    cached = _cached_digest(cache)
    if {name: cached.get(name) for name in key} == key and isinstance(cached.get("sha256"), str):
        return str(cached["sha256"])
    sha256 = file_sha256(path)
    with contextlib.suppress(OSError):  # a read-only folder: the digest is not cached
        write_bytes(cache, json.dumps({**key, "sha256": sha256}).encode())
    return sha256


def files_sha256(paths: Iterable[Path]) -> str:
    """One SHA-256 for several files: of their names and digests, in any order."""
    digests = {path.name: weights_sha256(path) for path in paths}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def _cached_digest(cache: Path) -> dict[str, Any]:
    try:
        return read_json(cache)
    except WeightsError:  # missing or damaged
        return {}
