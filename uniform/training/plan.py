"""Estimates size, memory and time of a run without training a step: the dry run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from uniform.checkpoint_format import step_of
from uniform.latents.batches.mixture import Mixture
from uniform.latents.fetching.byte_ranges import RemoteBytes, remote_bytes
from uniform.latents.loader.loader import Loader
from uniform.model.transformer import UniForm
from uniform.training.reporting.cost import activation_bytes, clip_flops, clip_tokens, peak_flops, state_bytes
from uniform.training.settings.config import TrainConfig
from uniform.training.setup import build_model, newest_checkpoint, require_text_width, with_frame_rate
from uniform.training.state import fixed_values, require_same_run
from uniform.training.validation import open_clips

ASSUMED_MFU = 0.35
"""Model FLOP utilisation that the estimate of time assumes."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Sizes, times and memory of a run. Times are estimates: peak arithmetic times `ASSUMED_MFU`."""

    parameters: int
    tokens_per_clip: int
    flops_per_clip: float
    clips: int
    folders: dict[str, int]
    """Clips by folder."""
    steps_per_epoch: float
    epochs: float
    state_bytes: float
    """Per device: weights, gradients, moments, average."""
    activation_bytes: float
    """Per device, rough."""
    seconds: float | None
    """None where the device's peak is unknown."""
    resumes_at: int
    """Step of the newest checkpoint in the run's folder, 0 if there is none."""
    steps: int
    remote_bytes: RemoteBytes | None
    """Bytes to download and to cache for remote sources; None where all are local."""


def plan_run(config: TrainConfig, processes: int = 1, allowed_changes: Sequence[str] = ()) -> RunPlan:
    """Open the data and build the network as a run would, and compute its sizes.

    Args:
        processes: number of the run; each on a device like this machine's.
        allowed_changes: keys in which the run may differ from the checkpoint that it would resume from.
    Raises: ConfigError, ShardError, SpecMismatchError, as the run would.
    """
    mixture = Mixture(config.data.sources, config.seed, config.data.cache_folder)
    on_disk = replace(config.data, residency="disk")  # a dry run does not load the data into memory
    loader = Loader(mixture, on_disk, processes=processes, micro_batches=config.optimiser.accumulate)
    try:
        require_text_width(config, loader)
    finally:
        loader.close()
    if config.validation.every is not None:
        open_clips(config, mixture, processes)
    config = with_frame_rate(config, mixture)
    checkpoint = newest_checkpoint(config.out)
    if checkpoint is not None:
        require_same_run(checkpoint, fixed_values(config, mixture), allowed_changes)
    model: UniForm = build_model(config, mixture)
    device = torch.device("cuda" if torch.cuda.is_available() and config.compute.device != "cpu" else "cpu")
    bf16 = config.compute.precision == "bf16" or (config.compute.precision == "auto" and device.type == "cuda")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens, flops = clip_tokens(model), clip_flops(model)
    peak = peak_flops(device, torch.bfloat16 if bf16 else None)
    clips_at_once = max(1, config.data.global_batch // (processes * config.optimiser.accumulate))
    samples = config.steps * config.data.global_batch
    return RunPlan(
        parameters=parameters,
        tokens_per_clip=tokens,
        flops_per_clip=flops,
        clips=mixture.clips,
        folders={name: len(source.index) for name, source in zip(mixture.names, mixture.sources, strict=True)},
        steps_per_epoch=mixture.clips / config.data.global_batch,
        epochs=samples / mixture.clips,
        state_bytes=state_bytes(parameters, processes, config.compute.parallel == "fsdp"),
        activation_bytes=activation_bytes(
            config.model, tokens, clips_at_once, config.compute.checkpointing, 2 if bf16 else 4
        ),
        seconds=None if peak is None else samples * flops / (peak * ASSUMED_MFU * processes),
        resumes_at=0 if checkpoint is None else step_of(checkpoint),
        steps=config.steps,
        remote_bytes=remote_bytes(mixture, config.data.cache_bytes),
    )
