"""Builds everything that a run needs from its configuration, and checks it before step 0."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from uniform import checkpoint_format
from uniform.checkpoint_format import CHECKPOINTS_NAME
from uniform.diffusion.objective import Objective, make_objective
from uniform.errors import SpecMismatchError
from uniform.latents.batches.mixture import Mixture
from uniform.latents.format import identity
from uniform.latents.loader.loader import Loader
from uniform.model.checkpoint import ModelMetadata, initialise_from
from uniform.model.transformer import UniForm
from uniform.training.lora import add_adapters, weights_digest
from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser
from uniform.training.parallel.processes import Processes
from uniform.training.parallel.sharding import shard
from uniform.training.settings.config import TrainConfig
from uniform.training.state import State, describe, fixed_values, require_same_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its next step."""

    config: TrainConfig
    processes: Processes
    loader: Loader
    objective: Objective
    callable_model: nn.Module
    """The network, or its wrapper for many processes; the training step calls it."""
    state: State
    metadata: dict[str, Any]
    """Metadata that every checkpoint of this run holds."""
    precision: torch.dtype | None
    """Autocast's type; None computes in float32."""


def prepare(config: TrainConfig, processes: Processes, allowed_changes: Sequence[str] = ()) -> Prepared:
    """Open the data, build the network, and go on from the newest intact checkpoint if there is one.

    Args:
        allowed_changes: keys in which the run may differ from its checkpoint.
    Raises: ConfigError, ShardError, SpecMismatchError, CheckpointError.
    """
    mixture = Mixture(config.data.sources, config.seed, config.data.cache_folder)
    loader = Loader(
        mixture,
        config.data,
        rank=processes.rank,
        processes=processes.count,
        micro_batches=config.optimiser.accumulate,
        device=processes.device,
    )
    require_text_width(config, loader)
    config = with_frame_rate(config, mixture)
    model = build_model(config, mixture)
    model.set_checkpointing(config.compute.checkpointing)
    checkpoint = newest_checkpoint(config.out)
    fixed = fixed_values(config, mixture)
    if config.init is not None and (checkpoint is None or config.lora.rank is not None):
        report = initialise_from(model, config.init, model_metadata(config, mixture))
        logger.info("weights from %s: %s", config.init, report)
    if config.lora.rank is not None:
        fixed["lora base weights"] = weights_digest(model)
        add_adapters(model, config.lora, config.seed)
    model.to(processes.device)
    callable_model = shard(model, config.compute.parallel, processes)
    if config.compute.compile:
        model.compile_blocks()
    state = State(model, Ema(model, config.ema), Optimiser(model, config.optimiser), config.lora)
    if checkpoint is not None:
        require_same_run(checkpoint, fixed, allowed_changes)
        state.restore(checkpoint)
    metadata = describe(config, mixture) | {"fixed": fixed, "accepted": list(allowed_changes)}
    objective = make_objective(config.diffusion, learned_variance=config.model.learned_variance)
    return Prepared(
        config, processes, loader, objective, callable_model, state, metadata, _precision(config, processes)
    )


def require_text_width(config: TrainConfig, loader: Loader) -> None:
    """Raise SpecMismatchError where the model reads text features of another width than the shards have."""
    if loader.text_width != config.model.text_width:
        raise SpecMismatchError(
            f"{loader.mixture.first.folder}: text features have {loader.text_width} channels per token, "
            f"model.text_width is {config.model.text_width}. Set model.text_width={loader.text_width}, or choose "
            f"other caption sets."
        )


def with_frame_rate(config: TrainConfig, mixture: Mixture) -> TrainConfig:
    """The configuration with the spec's frame rate, an input of the network in training and in sampling."""
    return replace(config, model=replace(config.model, fps=float(mixture.first.spec.fps)))


def build_model(config: TrainConfig, mixture: Mixture) -> UniForm:
    """The fresh network for the mixture's spec. Raises: ConfigError where the layout does not fit it."""
    spec = mixture.first.spec
    return UniForm(config.model, spec.video_latent, spec.audio_latent, seed=config.seed)


def model_metadata(config: TrainConfig, mixture: Mixture) -> ModelMetadata:
    """Model, spec, objective and data of the run, as weight files hold them."""
    first = mixture.first
    return ModelMetadata(
        model=config.model, spec=first.spec, diffusion=asdict(config.diffusion), identity=identity(first.card)
    )


def newest_checkpoint(out: Path) -> Path | None:
    """The newest intact checkpoint of a run's folder; see `uniform.checkpoint_format`."""
    return checkpoint_format.newest_checkpoint(out / CHECKPOINTS_NAME)


def _precision(config: TrainConfig, processes: Processes) -> torch.dtype | None:
    wanted = config.compute.precision
    if wanted == "auto":
        wanted = "bf16" if processes.device.type == "cuda" else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None
