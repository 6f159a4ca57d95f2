"""The state of a run: network, average, moments, and the few numbers that must survive a stop."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from uniform.errors import CheckpointError
from uniform.latents.batches.mixture import Mixture
from uniform.latents.format import identity, require_same
from uniform.model.transformer import UniForm
from uniform.training.lora import LoraConfig, merged
from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser
from uniform.training.parallel.sharding import like, whole
from uniform.training.saving.checkpoints import ADAPTERS, EMA, MODEL, OPTIMISER, Snapshot, read_facts, read_tensors
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import as_json, flatten

_MOVABLE = {"optimiser.accumulate", "optimiser.offload", "diffusion.guidance", "diffusion.flow_steps"}
"""Keys that change nothing that a run learns."""
_YOUNG = (" texts", " order and content")
"""Facts that checkpoints of 0.2.1 and before do not state."""
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
    """Hash chain of the clip ids of all global batches so far: equal chains saw the same batches in the same order."""
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=NORMS_KEPT))
    """Gradient norms of the last good steps."""
    skipped: int = 0
    """Bad steps in a row."""
    best: tuple[float, int] | None = None
    """Lowest mean validation loss so far, and its step."""
    copies: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    """Memory of the last snapshot, for the next."""

    def saw(self, clip_ids: Sequence[str]) -> None:
        """Add a global batch to the chain."""
        self.chain = hashlib.sha256("\n".join([self.chain, *clip_ids]).encode()).hexdigest()[:16]

    def is_spike(self, norm: float, factor: float | None) -> bool:
        """True where `norm` is more than `factor` times the median of the last good norms."""
        return factor is not None and len(self.norms) >= 10 and norm > factor * median(self.norms)

    def snapshot(self, facts: dict[str, Any]) -> Snapshot:
        """A copy on the CPU. All processes must call it together; sharded tensors are put together.

        The next call writes over the tensors of this one, so whoever writes them to disk must have finished.
        """
        weights = whole(self.model.state_dict(), self.copies[MODEL])
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
        averaged = whole(self.ema.shadow, self.copies[EMA])
        tensors = {
            MODEL: merged(weights, self.lora),
            EMA: merged({**weights, **averaged}, self.lora),
            OPTIMISER: whole(moments, self.copies[OPTIMISER]),
        }
        if self.lora.rank is not None:
            raw = {f"raw/{name}": weights[name] for name in averaged}
            tensors[ADAPTERS] = raw | {f"average/{name}": value for name, value in averaged.items()}
        return Snapshot(facts={**facts, **numbers}, tensors=tensors)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint folder. Raises: CheckpointError where its tensors are not this model's."""
        facts = read_facts(path)
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
            state.setdefault(name, {})[kind] = tensor if kind == "step" else like(tensor, parameters[name])
        self.optimiser.load_state(state)
        self.step, self.chain, self.skipped = int(facts["step"]), str(facts["chain"]), int(facts["skipped"])
        self.norms = deque(facts["norms"], maxlen=NORMS_KEPT)
        self.best = None if facts["best"] is None else (float(facts["best"][0]), int(facts["best"][1]))


def load_weights(model: UniForm, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy a whole state dict into a model, sharded or not. Raises: CheckpointError that names what does not fit."""
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
    """Copy whole tensors into those of the same names, sharded or not."""
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(like(value, targets[name]))


def fixed_facts(config: TrainConfig, mixture: Mixture) -> dict[str, str]:
    """What must stay the same for a run to be the same run; everything else may change between stops."""
    facts = identity(mixture.first.card)
    facts |= {"seed": str(config.seed), "data.global_batch": str(config.data.global_batch)}
    facts |= {"data.max_corrupt": str(config.data.max_corrupt), "data.pad_text_to": str(config.data.pad_text_to)}
    for number, source in enumerate(mixture.sources):
        name = f"data.sources.{number}"
        facts[f"{name} clips"] = f"{len(source.index)} of {source.index.card.ids_digest}"
        facts[f"{name} split"] = str(source.config.split)
        facts[f"{name} share"] = f"{mixture.shares[number]:.9f}"
        facts[f"{name} captions"] = ", ".join(source.captions)
        facts[f"{name} texts"] = ", ".join(_text_codec(source.index.card.texts[each]) for each in source.captions)
        facts[f"{name} order and content"] = source.index.content_digest(source.captions)
        facts[f"{name} windows"] = str(source.windows)
        facts[f"{name} posterior"] = source.config.posterior
    facts |= _values(config)
    if config.optimiser.schedule == "cosine":
        facts["steps"] = str(config.steps)
    return facts


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
    return {key: value for key, value in values.items() if key not in _MOVABLE}


def require_same_run(path: Path, wanted: dict[str, str], accepted: Sequence[str]) -> None:
    """Refuse a checkpoint of another configuration, spec or codec, with the difference.

    Args:
        wanted: `fixed_facts` of the run that wants to go on.
        accepted: keys whose change the user wants; a table's name stands for all its keys.
    Raises: SpecMismatchError.
    """
    found = _values(TrainConfig()) | read_facts(path)["fixed"]  # an option younger than the run had its default
    young = {key for key in wanted if key.endswith(_YOUNG) and key not in found}

    def is_accepted(key: str) -> bool:
        return any(key == name or key.startswith((f"{name}.", f"{name} ")) for name in accepted)

    require_same(
        found,
        {key: value for key, value in wanted.items() if not is_accepted(key) and key not in young},
        str(path),
        "Go on with the configuration that the run began with, choose another `out`, begin from its weights with "
        "init=..., or say that you want the change: --accept KEY.",
    )


def describe(config: TrainConfig, mixture: Mixture) -> dict[str, Any]:
    """What a checkpoint says about its run, JSON-ready."""
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
