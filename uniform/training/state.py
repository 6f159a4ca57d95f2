"""The state of a run: network, averaged weights, optimiser moments and counters; saved and restored."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from uniform.checkpoint_format import ADAPTERS, EMA, MODEL, OPTIMISER, Snapshot, read_metadata, read_tensors
from uniform.errors import CheckpointError
from uniform.latents.batches.mixture import Mixture
from uniform.latents.format import identity, require_same
from uniform.model.transformer import UniForm
from uniform.renamed import KEYS, current
from uniform.training.lora import LoraConfig, merged
from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser
from uniform.training.parallel.sharding import distribute_like, gather
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import as_json, flatten

RESUMABLE_CHANGES = {"optimiser.accumulate", "optimiser.offload", "diffusion.guidance", "diffusion.flow_steps"}
"""Keys that may change when a run resumes: they do not change what it learns."""
ADDED_LATER = (" texts", " order and content")
"""Ends of fixed keys that checkpoints of 0.2.1 and before do not have."""
NORMS_KEPT = 100
"""Gradient norms that the spike rule compares with."""


@dataclass
class State:
    """Everything that training changes."""

    model: UniForm
    ema: Ema
    optimiser: Optimiser
    lora: LoraConfig = field(default_factory=LoraConfig)
    step: int = 0
    """Finished optimiser steps."""
    chain: str = ""
    """Batch-hash chain of the clip ids of all global batches so far: equal where batches and their order are equal."""
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=NORMS_KEPT))
    """Gradient norms of the last good steps."""
    skipped: int = 0
    """Bad steps in a row."""
    best: tuple[float, int] | None = None
    """Lowest mean validation loss so far, and its step."""
    copies: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    """Tensors of the last snapshot, which the next one reuses."""

    def add_batch(self, clip_ids: Sequence[str]) -> None:
        """Add a global batch to the batch-hash chain."""
        self.chain = hashlib.sha256("\n".join([self.chain, *clip_ids]).encode()).hexdigest()[:16]

    def is_spike(self, norm: float, factor: float | None) -> bool:
        """True where `norm` is more than `factor` times the median of the last good norms."""
        return factor is not None and len(self.norms) >= 10 and norm > factor * median(self.norms)

    def snapshot(self, metadata: dict[str, Any]) -> Snapshot:
        """A copy on the CPU. All processes must call it together; sharded tensors are gathered.

        The next call writes over the tensors of this one, so whoever writes them to disk must have finished.
        """
        weights = gather(self.model.state_dict(), self.copies[MODEL])
        moments = {
            f"{kind}/{name}": tensor for name, kinds in self.optimiser.state().items() for kind, tensor in kinds.items()
        }
        numbers: dict[str, Any] = {
            "step": self.step,
            "chain": self.chain,
            "norms": list(self.norms),
            "skipped": self.skipped,
        }
        numbers["best"] = self.best
        averaged = gather(self.ema.shadow, self.copies[EMA])
        tensors = {
            MODEL: merged(weights, self.lora),
            EMA: merged({**weights, **averaged}, self.lora),
            OPTIMISER: gather(moments, self.copies[OPTIMISER]),
        }
        if self.lora.rank is not None:
            raw = {f"raw/{name}": weights[name] for name in averaged}
            tensors[ADAPTERS] = raw | {f"average/{name}": value for name, value in averaged.items()}
        return Snapshot(metadata={**metadata, **numbers}, tensors=tensors)

    def restore(self, path: Path) -> None:
        """Load a checkpoint folder. Raises: CheckpointError where its tensors are not this model's."""
        metadata = read_metadata(path)
        parameters = dict(self.model.named_parameters())
        if self.lora.rank is None:
            load_weights(self.model, read_tensors(path, MODEL), path)
            averaged = read_tensors(path, EMA)
        else:
            adapters = read_tensors(path, ADAPTERS)
            averaged = {name: adapters[f"average/{name}"] for name in self.ema.shadow}
            copy_into(parameters, {name: adapters[f"raw/{name}"] for name in self.ema.shadow})
        copy_into(self.ema.shadow, {name: averaged[name] for name in self.ema.shadow})
        state: dict[str, dict[str, Tensor]] = {}
        for key, tensor in read_tensors(path, OPTIMISER).items():
            kind, name = key.split("/", 1)
            state.setdefault(name, {})[kind] = tensor if kind == "step" else distribute_like(tensor, parameters[name])
        self.optimiser.load_state(state)
        self.step, self.chain, self.skipped = int(metadata["step"]), str(metadata["chain"]), int(metadata["skipped"])
        self.norms = deque(metadata["norms"], maxlen=NORMS_KEPT)
        self.best = None if metadata["best"] is None else (float(metadata["best"][0]), int(metadata["best"][1]))


def load_weights(model: UniForm, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy a gathered state dict into a model, sharded or not. Raises: CheckpointError that names what does not fit."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"{source}: not the weights of this model: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3])}), {len(shapes)} of another shape "
            f"({', '.join(sorted(shapes)[:3])}). Use the [model] table that the checkpoint was trained with."
        )
    copy_into(own, tensors)


def copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy gathered tensors into those of the same names, sharded or not."""
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(distribute_like(value, targets[name]))


def fixed_values(config: TrainConfig, mixture: Mixture) -> dict[str, str]:
    """The values that must not change while a run stops and resumes; all others may."""
    values = identity(mixture.first.card)
    values |= {"seed": str(config.seed), "data.global_batch": str(config.data.global_batch)}
    values |= {"data.max_corrupt": str(config.data.max_corrupt), "data.pad_text_to": str(config.data.pad_text_to)}
    for number, source in enumerate(mixture.sources):
        name = f"data.sources.{number}"
        values[f"{name} clips"] = f"{len(source.index)} of {source.index.card.ids_digest}"
        values[f"{name} split"] = str(source.config.split)
        values[f"{name} share"] = f"{mixture.shares[number]:.9f}"
        values[f"{name} captions"] = ", ".join(source.captions)
        values[f"{name} texts"] = ", ".join(_text_codec(source.index.card.texts[each]) for each in source.captions)
        values[f"{name} order and content"] = source.index.content_digest(source.captions)
        values[f"{name} windows"] = str(source.windows)
        values[f"{name} posterior"] = source.config.posterior
    values |= _values(config)
    if config.optimiser.schedule == "cosine":
        values["steps"] = str(config.steps)
    return values


def _text_codec(text: Mapping[str, Any]) -> str:
    codec = text["codec"]
    return f"{codec['name']} {codec['fingerprint']}"


def _values(config: TrainConfig) -> dict[str, str]:
    """Keys of the configuration that must stay the same, with their values."""
    values = {
        key: str(value)
        for table in ("model", "diffusion", "lora", "tasks", "optimiser", "ema", "bad_step")
        for key, value in flatten(getattr(config, table), table).items()
    }
    return {key: value for key, value in values.items() if key not in RESUMABLE_CHANGES}


def _current_key(key: str) -> str:
    """A dotted key of a checkpoint made by 0.3.0 under its present name."""
    return ".".join(current(part, KEYS) for part in key.split("."))


def require_same_run(path: Path, wanted: dict[str, str], allowed_changes: Sequence[str]) -> None:
    """Refuse a checkpoint of another configuration, spec or codec, with the difference.

    Args:
        wanted: `fixed_values` of the run that is to resume.
        allowed_changes: keys that the user allows to change; a table's name stands for all its keys.
    Raises: SpecMismatchError.
    """
    stored = {_current_key(key): value for key, value in read_metadata(path)["fixed"].items()}
    found = _values(TrainConfig()) | stored  # an option added after the run began had its default
    added = {key for key in wanted if key.endswith(ADDED_LATER) and key not in found}

    def is_allowed(key: str) -> bool:
        return any(key == name or key.startswith((f"{name}.", f"{name} ")) for name in allowed_changes)

    require_same(
        found,
        {key: value for key, value in wanted.items() if not is_allowed(key) and key not in added},
        str(path),
        "Resume with the configuration that the run began with, choose another `out`, begin from its weights with "
        "init=..., or allow the change: --allow-change KEY.",
    )


def describe(config: TrainConfig, mixture: Mixture) -> dict[str, Any]:
    """The metadata of a run that its checkpoints hold, JSON-ready."""
    card = mixture.first.card
    return {
        "config": as_json(config),
        "spec": dict(card.spec),
        "codecs": {"video": dict(card.video), "audio": dict(card.audio), "texts": dict(card.texts)},
        "identity": identity(card),
        "datasets": [
            {"folder": str(source.index.folder), "ids_digest": source.index.card.ids_digest, "clips": len(source.index)}
            for source in mixture.sources
        ],
    }
