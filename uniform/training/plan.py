"""What a run would be, found out without a step: the dry run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from uniform.latents.batches.mixture import Mixture
from uniform.latents.fetching.byte_ranges import Fetching, fetching
from uniform.latents.loader.loader import Loader
from uniform.model.transformer import UniForm
from uniform.training.reporting.cost import activation_bytes, clip_flops, clip_tokens, peak_flops, state_bytes
from uniform.training.settings.config import TrainConfig
from uniform.training.setup import build_model, newest_checkpoint, require_text_width, with_frame_rate
from uniform.training.state import fixed_facts, require_same_run
from uniform.training.validation import open_clips

GUESSED_MFU = 0.35
"""Share of the peak that the estimate of time supposes."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Sizes, times and memory of a run. Times are estimates: peak arithmetic times `GUESSED_MFU`."""

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
    fetching: Fetching | None
    """What remote sources need of the network and of the cache; None where all are local."""


def plan_run(config: TrainConfig, processes: int = 1, accepted: Sequence[str] = ()) -> RunPlan:
    """Open the data and build the network as a run would, and do the sums.

    Args:
        processes: that the run would have; each on a device like this machine's.
        accepted: keys in which the run may differ from the checkpoint that it would go on from.
    Raises: ConfigError, ShardError, SpecMismatchError, as the run would.
    """
    mixture = Mixture(config.data.sources, config.seed, config.data.cache_folder)
    on_disk = replace(config.data, residency="disk")  # nothing is read into memory only to be looked at
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
        require_same_run(checkpoint, fixed_facts(config, mixture), accepted)
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
        seconds=None if peak is None else samples * flops / (peak * GUESSED_MFU * processes),
        resumes_at=0 if checkpoint is None else int(checkpoint.name.removeprefix("step-")),
        steps=config.steps,
        fetching=fetching(mixture, config.data.cache_bytes),
    )
