"""Reads and writes weight files of UniForm, and initialises networks from published ones. No code in a file is run.

step-00001000/   checkpoint.json  model.safetensors  ema.safetensors     a checkpoint folder of a training run
model.safetensors                 the same in one file: metadata in its header, under "uniform"
config.json  diffusion_pytorch_model.safetensors    the same in the layout of diffusers: metadata under "uniform"
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from uniform.checkpoint_format import (
    CHECKPOINTS_NAME,
    EMA,
    FORMAT_VERSION,
    METADATA_NAME,
    MODEL,
    newest_checkpoint,
    read_metadata,
    require_intact,
    require_version,
    save_tensors,
)
from uniform.config import Document, build
from uniform.errors import CheckpointError, ConfigError, WeightsError
from uniform.model.config import ModelConfig
from uniform.model.convert import Origin, Report, convert
from uniform.model.stdit3 import STDiT3
from uniform.model.transformer import UniForm
from uniform.spec import Spec
from uniform.untrusted_json import read_untrusted_json

HEADER = "uniform"
"""Key of the metadata in a safetensors header."""
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
DIFFUSERS_CONFIG = "config.json"
MAX_CONFIG_BYTES = 4 << 20
"""Longest config.json that is read; ours has a few KiB."""
_PLACES = ("layout", "share", "patch", "audio_patch")
"""Keys of the model's configuration that decide which weight belongs to which token."""
_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_SINGLE = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Metadata of a weight file: everything that sampling needs beside the weights."""

    model: ModelConfig
    spec: Spec
    diffusion: Mapping[str, Any]
    """Fields of `DiffusionConfig`."""
    codecs: Mapping[str, Any] = field(default_factory=dict)
    """Cards of the codecs that made the training latents: "video", "audio", and by caption set "texts"."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """`uniform.latents.format.identity` of the training shards: what must agree for latents to fit."""
    step: int = 0
    """Finished optimiser steps."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def save_model(path: Path, model: UniForm, metadata: ModelMetadata) -> None:
    """Write the weights and their metadata atomically as one safetensors file."""
    header = {HEADER: json.dumps(metadata.as_dict(), sort_keys=True)}
    save_tensors(path, model.state_dict(), header)


def load_metadata(path: Path) -> ModelMetadata:
    """The metadata of a trained network, without its weights. Args, raises: as `load_model`."""
    return _read_metadata(_own_files(path, ema=True)[0])


def load_model(path: Path, ema: bool = True) -> tuple[UniForm, ModelMetadata]:
    """A trained network for sampling, on the CPU, in evaluation mode.

    Args:
        path: a file of `save_model`, a checkpoint folder (step-...), a run's folder (its newest intact checkpoint), or
            a folder in the layout of diffusers that `uniform export --diffusers` wrote.
        ema: for folders, the averaged weights; else the raw ones.
    Raises: CheckpointError where it is none, is damaged, of another format version, or its weights are not those of
        its metadata.
    """
    metadata_path, weights_path = _own_files(path, ema)
    metadata = _read_metadata(metadata_path)
    model = UniForm(metadata.model, metadata.spec.video_latent, metadata.spec.audio_latent)
    state = _read_state(weights_path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        raise CheckpointError(
            f"{weights_path}: {len(wrong)} tensors are missing, unknown or of another shape than its metadata says "
            f"({', '.join(wrong[:4])}). The file was changed after it was written: use another checkpoint."
        )
    model.load_state_dict(state)
    return model.eval(), metadata


def initialise_from(model: UniForm | STDiT3, path: Path, metadata: ModelMetadata | None = None) -> Report:
    """Initialise a network from published weights, or from another UniForm's: see `uniform.model.convert`.

    Args:
        model: a fresh network; parts that the source does not have stay as they are.
        metadata: of the new training run; where another UniForm was trained on something else, the report lists the
            differences, and an error does too.
        path: PixArt `.pth`, a diffusers folder (or its parent with `transformer/`), OpenSora-STDiT-v3 as file or
            folder, a file or a folder of this toolkit.
    Returns: which parameters were copied from which tensors, and which start fresh.
    Raises: WeightsError where the file is none of these, or does not fit; CheckpointError where a checkpoint of this
        toolkit cannot be read. Nothing is loaded then.
    """
    split = isinstance(model, UniForm) and model.config.share == "split"
    ours = model.state_dict()
    differences = [] if metadata is None else _differences(path, metadata)
    try:
        state, report = convert(_read_published(path), ours, copy_side=split)
    except WeightsError as error:
        raise WeightsError("\n".join([str(error), *(f"  {line}" for line in differences)])) from error
    report.notes.extend(differences)
    model.load_state_dict({**ours, **state})
    if report.origin in (Origin.PIXART, Origin.DIFFUSERS) and model.config.qk_norm_spatial:
        report.notes.append("qk_norm_spatial is on; the image model has none: at step 0 the outputs differ")
    if any("csize_embedder" in key or "resolution_embedder" in key for key in report.unused):
        report.notes.append(
            "the source has an input for image sizes, this network has none: at step 0 the outputs differ"
        )
    return report


def _differences(path: Path, metadata: ModelMetadata) -> list[str]:
    """How the training of a UniForm at `path` differs from `metadata`; empty for weights of other projects."""
    try:
        theirs = _read_metadata(_own_files(path, ema=True)[0])
    except CheckpointError:
        return []
    pairs = {f"model.{name}": (getattr(theirs.model, name), getattr(metadata.model, name)) for name in _PLACES}
    pairs |= {name: (theirs.identity.get(name), value) for name, value in metadata.identity.items()}
    pairs["objective"] = (theirs.diffusion["objective"], metadata.diffusion["objective"])
    return [f"{name} was {was}, and is {now} here" for name, (was, now) in pairs.items() if was != now]


def _own_files(path: Path, ema: bool) -> tuple[Path, Path]:
    """Paths of the metadata and of the weights. Raises: CheckpointError where there are none, or they are damaged."""
    if path.is_file():
        return path, path
    if (path / DIFFUSERS_CONFIG).is_file() and (path / DIFFUSERS_WEIGHTS).is_file():
        return path / DIFFUSERS_CONFIG, path / DIFFUSERS_WEIGHTS
    if (path / METADATA_NAME).exists():
        folder: Path | None = path
        require_intact(path)
    else:
        folder = newest_checkpoint(path / CHECKPOINTS_NAME)
    if folder is None:
        raise CheckpointError(
            f"{path}: neither a weight file, nor a folder step-..., nor a run with an intact checkpoints/step-..., nor "
            f"a folder with {DIFFUSERS_CONFIG} and {DIFFUSERS_WEIGHTS}"
        )
    return folder / METADATA_NAME, folder / f"{EMA if ema else MODEL}.safetensors"


def _read_metadata(path: Path) -> ModelMetadata:
    """From checkpoint.json, or from the header of a single file."""
    try:
        if path.name == DIFFUSERS_CONFIG:
            with path.open("rb") as opened:
                config = read_untrusted_json(opened.read(MAX_CONFIG_BYTES + 1), max_bytes=MAX_CONFIG_BYTES)
            values = config[HEADER]
            require_version(path.name, values["format_version"])
        elif path.suffix == ".json":
            values = read_metadata(path.parent)
            values = {**values, **{table: values["config"][table] for table in ("model", "diffusion")}}
        else:
            with safe_open(path, framework="pt") as file:
                values = json.loads((file.metadata() or {})[HEADER])
            require_version(path.name, values["format_version"])
        return ModelMetadata(
            model=build(ModelConfig, values["model"], Document(path, "", {})),
            spec=Spec(**values["spec"]),
            diffusion=dict(values["diffusion"]),
            codecs=dict(values["codecs"]),
            identity={str(key): str(value) for key, value in values["identity"].items()},
            step=int(values["step"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: no metadata of a UniForm checkpoint ({type(error).__name__}: {error}). Give a file or folder "
            f"that training or export wrote; published image weights initialise a run, they cannot be sampled from."
        ) from error


def _read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file. Raises: WeightsError where it is missing, cut, or holds more than tensors."""
    try:
        if path.suffix in _PICKLES:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
            if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
                raise WeightsError(f"{path}: holds {type(loaded).__name__}, not a table of tensors")
            return loaded
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise WeightsError(
            f"{path}: cannot be read ({type(error).__name__}: {first}). It is missing, cut short, or holds more than "
            f"tensors (code in it is never run). Copy or download the file again, or use another one."
        ) from error


def _read_published(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder: one file, numbered parts with an index, or a checkpoint folder."""
    if path.is_file():
        return _read_state(path)
    for folder in (path, path / "transformer"):
        if (folder / METADATA_NAME).exists() or (folder / CHECKPOINTS_NAME).is_dir():
            return _read_state(_own_files(folder, ema=True)[1])
        if (folder / _INDEX).exists():
            names = sorted(set(_index_of_parts(folder / _INDEX)))
            return {key: value for name in names for key, value in _read_state(folder / name).items()}
        for name in _SINGLE:
            if (folder / name).exists():
                return _read_state(folder / name)
    raise WeightsError(f"{path}: no weights found; looked for {', '.join((*_SINGLE, _INDEX, METADATA_NAME))}")


def _index_of_parts(path: Path) -> list[str]:
    """File names in a diffusers index; none may leave its folder."""
    try:
        names = [str(name) for name in json.loads(path.read_bytes())["weight_map"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not an index of weight files ({error!r})") from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{path}: names '{name}', which is no safetensors file beside it")
    return names
