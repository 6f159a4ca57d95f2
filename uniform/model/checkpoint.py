"""Weight files of UniForm: read, written, and begun from published ones. Nothing is run that a file holds.

step-00001000/   checkpoint.json  model.safetensors  ema.safetensors     a folder that training wrote
model.safetensors                 the same in one file: facts in its header, under "uniform"
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from uniform.atomic import replacing
from uniform.config import Document, build
from uniform.errors import CheckpointError, ConfigError, WeightsError
from uniform.model.config import ModelConfig
from uniform.model.convert import Origin, Report, convert
from uniform.model.stdit3 import STDiT3
from uniform.model.transformer import UniForm
from uniform.spec import Spec

HEADER = "uniform"
"""Key of the facts in a safetensors header."""
FACTS_NAME = "checkpoint.json"
FORMAT_VERSION = 1
_PLACES = ("layout", "share", "patch", "audio_patch")
"""Of a model's configuration: where each number stands."""
_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_SINGLE = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a weight file must remember for the weights to be of use."""

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


def save_model(path: Path, model: UniForm, facts: ModelFacts) -> None:
    """Write the weights and their facts as one safetensors file, whole or not at all."""
    header = {HEADER: json.dumps(facts.as_dict(), sort_keys=True)}
    with replacing(path) as temporary:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary, metadata=header)


def load_model(path: Path, ema: bool = True) -> tuple[UniForm, ModelFacts]:
    """A trained network for sampling, on the CPU, in evaluation mode.

    Args:
        path: a file of `save_model`, a checkpoint folder (step-...), or a run's folder, whose newest one is taken.
        ema: for folders, the averaged weights; else the raw ones.
    Raises: CheckpointError where it is none, is damaged, or its weights are not those its facts announce.
    """
    facts_path, weights_path = _own_files(path, ema)
    facts = _read_facts(facts_path)
    model = UniForm(facts.model, facts.spec.video_latent, facts.spec.audio_latent)
    state = _read_state(weights_path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        raise CheckpointError(
            f"{weights_path}: {len(wrong)} tensors are missing, unknown or of another shape than its facts say "
            f"({', '.join(wrong[:4])}). The file was changed after it was written: use another checkpoint."
        )
    model.load_state_dict(state)
    return model.eval(), facts


def initialise_from(model: UniForm | STDiT3, path: Path, facts: ModelFacts | None = None) -> Report:
    """Begin with published weights, or with another UniForm's: see `uniform.model.convert`.

    Args:
        model: a fresh network; parts that the source does not have stay as they are.
        facts: what the network will be trained on; where another UniForm was trained on something else, the report
            says so, and a refusal too.
        path: PixArt `.pth`, a diffusers folder (or its parent with `transformer/`), OpenSora-STDiT-v3 as file or
            folder, a file or a folder of ours.
    Returns: what came from where, what starts fresh.
    Raises: WeightsError where the file is none of these, or does not fit: nothing is loaded then.
    """
    split = isinstance(model, UniForm) and model.config.share == "split"
    ours = model.state_dict()
    differences = [] if facts is None else _differences(path, facts)
    try:
        state, report = convert(_read_published(path), ours, copy_side=split)
    except WeightsError as error:
        raise WeightsError("\n".join([str(error), *(f"  {line}" for line in differences)])) from error
    report.notes.extend(differences)
    model.load_state_dict({**ours, **state})
    if report.origin in (Origin.PIXART, Origin.DIFFUSERS) and model.config.qk_norm_spatial:
        report.notes.append("qk_norm_spatial is on, which the image model never saw: not its function at step 0")
    if any("csize_embedder" in key or "resolution_embedder" in key for key in report.unused):
        report.notes.append("the source was told picture sizes, which this network is not: not its function at step 0")
    return report


def _differences(path: Path, facts: ModelFacts) -> list[str]:
    """What a UniForm at `path` was trained on that `facts` are not; nothing for weights that are none of ours."""
    try:
        theirs = _read_facts(_own_files(path, ema=True)[0])
    except CheckpointError:
        return []
    pairs = {f"model.{name}": (getattr(theirs.model, name), getattr(facts.model, name)) for name in _PLACES}
    pairs |= {name: (theirs.identity.get(name), value) for name, value in facts.identity.items()}
    pairs["objective"] = (theirs.diffusion["objective"], facts.diffusion["objective"])
    return [f"{name} was {was}, and is {now} here" for name, (was, now) in pairs.items() if was != now]


def _own_files(path: Path, ema: bool) -> tuple[Path, Path]:
    """Where the facts are and where the weights are."""
    if path.is_file():
        return path, path
    runs = sorted((path / "checkpoints").glob(f"step-*/{FACTS_NAME}"), key=lambda found: found.parent.name)
    folder = path if (path / FACTS_NAME).exists() or not runs else runs[-1].parent
    if not (folder / FACTS_NAME).exists():
        raise CheckpointError(
            f"{path}: neither a weight file, nor a folder step-..., nor a run with checkpoints/step-..."
        )
    return folder / FACTS_NAME, folder / f"{'ema' if ema else 'model'}.safetensors"


def _read_facts(path: Path) -> ModelFacts:
    """From checkpoint.json, or from the header of a single file."""
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_bytes())
            values = {**values, **{table: values["config"][table] for table in ("model", "diffusion")}}
        else:
            with safe_open(path, framework="pt") as file:
                values = json.loads((file.metadata() or {})[HEADER])
        return ModelFacts(
            model=build(ModelConfig, values["model"], Document(path, "", {})),
            spec=Spec(**values["spec"]),
            diffusion=dict(values["diffusion"]),
            codecs=dict(values["codecs"]),
            identity={str(key): str(value) for key, value in values["identity"].items()},
            step=int(values["step"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: no facts of a UniForm checkpoint ({type(error).__name__}: {error}). Give a file or folder that "
            f"training wrote; published image weights are for beginning a run, not for sampling."
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
            f"tensors, and nothing in it is run: fetch it again."
        ) from error


def _read_published(path: Path) -> dict[str, Tensor]:
    """A file's tensors, or a folder's: one file, numbered parts with an index, or a checkpoint of ours."""
    if path.is_file():
        return _read_state(path)
    for folder in (path, path / "transformer"):
        if (folder / FACTS_NAME).exists() or (folder / "checkpoints").is_dir():
            return _read_state(_own_files(folder, ema=True)[1])
        if (folder / _INDEX).exists():
            names = sorted(set(_index_of_parts(folder / _INDEX)))
            return {key: value for name in names for key, value in _read_state(folder / name).items()}
        for name in _SINGLE:
            if (folder / name).exists():
                return _read_state(folder / name)
    raise WeightsError(f"{path}: no weights found; looked for {', '.join((*_SINGLE, _INDEX, FACTS_NAME))}")


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
