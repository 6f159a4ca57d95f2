"""The loss of a batch: its tasks, times and noise drawn by position, then one call of the network. B clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from uniform.diffusion.objective import Objective
from uniform.latents.batches import random_streams as draws
from uniform.latents.batches.batch import Batch
from uniform.latents.batches.random_streams import Stream
from uniform.pair import Pair
from uniform.tasks import MODALITIES, Task
from uniform.training.settings.config import TasksConfig

GENERATES = {modality: [task.generates(modality) for task in Task] for modality in MODALITIES}


@dataclass(frozen=True)
class Drawn:
    """The random draws for the clips of a batch, on the batch's device."""

    task: Tensor
    """Long (B,), `Task.number`."""
    generates: Pair
    """Bool (B,) per modality."""
    time: Pair
    """(B,) per modality, 0 to 1000; a conditioning modality is at 0 whatever this is."""
    noise: Pair
    drop_text: Tensor
    """Bool (B,)"""


@dataclass(frozen=True)
class ClipLosses:
    """Losses of a batch, clip by clip."""

    drawn: Drawn
    total: Tensor
    """(B,), with gradient."""
    parts: dict[str, Tensor]
    """(B,) each, without gradient."""


def draw(batch: Batch, objective: Objective, tasks: TasksConfig, seed: int, global_batch: int) -> Drawn:
    """Tasks, times, noise and dropped captions of a batch; a pure function of the seed and the batch's positions."""
    device = batch.clean.video.device
    units = batch.positions if tasks.draw == "sample" else batch.positions // global_batch
    task = draws.tasks(seed, units, tasks.shares)
    generates = Pair(*(torch.from_numpy(np.array(GENERATES[m])[task]).to(device) for m in MODALITIES))
    streams = (Stream.TIME, Stream.AUDIO_TIME if objective.independent_timesteps else Stream.TIME)
    uniforms = (torch.from_numpy(draws.uniforms(seed, stream, batch.positions)).to(device) for stream in streams)
    drop = torch.from_numpy(draws.uniforms(seed, Stream.TEXT_DROP, batch.positions) < tasks.text_drop).to(device)
    return Drawn(
        task=torch.from_numpy(task).to(device),
        generates=generates,
        time=Pair(*map(objective.draw_times, uniforms)),
        noise=draws.noise(seed, batch.positions, batch.clean),
        drop_text=drop | ~batch.has_text,
    )


def clip_losses(model: nn.Module, objective: Objective, batch: Batch, drawn: Drawn) -> ClipLosses:
    """The objective's losses of each clip. `model` is called as `UniForm` is."""

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        prediction: Pair = model(noisy, time, drawn.task, batch.text, batch.text_mask, drop_text=drawn.drop_text)
        return prediction

    losses = objective.losses(denoiser, batch.clean, drawn.noise, drawn.time, drawn.generates)
    return ClipLosses(drawn, losses.total, {name: part.detach() for name, part in losses.parts.items()})
