"""Validation: the loss of the averaged weights on fixed clips with fixed times and noise."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from uniform.errors import ConfigError, SpecMismatchError
from uniform.latents.batches.mixture import Mixture
from uniform.latents.format import identity, require_same
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.tasks import Task
from uniform.training.reporting.loss_window import LossWindow
from uniform.training.settings.config import TasksConfig, TrainConfig
from uniform.training.setup import Prepared
from uniform.training.state import State
from uniform.training.step import clip_losses, draw

SEED = 20_250
"""Seed of validation's order, times and noise: the same in every run."""


def open_clips(config: TrainConfig, training: Mixture, processes: int) -> tuple[Mixture, LoaderConfig]:
    """The validation clips, and how they become batches: of the training's size, or of as many clips as there are.

    Raises: SpecMismatchError where they are made otherwise than the training clips; ConfigError, ShardError.
    """
    mixture = Mixture(config.validation.sources, SEED, config.data.cache_folder)
    require_same(
        identity(mixture.first.card),
        identity(training.first.card),
        str(mixture.first.folder),
        "Validation clips must be made with the spec and the codecs of the training clips.",
    )
    batch = min(config.data.global_batch, mixture.clips // processes * processes)
    if batch == 0:
        raise ConfigError(
            f"validation.sources have {mixture.clips} clips, and {processes} processes need one each. Name more."
        )
    return mixture, replace(config.data, global_batch=batch, read_ahead=0)


class Validation:
    """Losses by task and part on the first global batches of the validation clips."""

    def __init__(self, prepared: Prepared) -> None:
        """Open the clips. Raises: SpecMismatchError where they are made otherwise; ConfigError, ShardError."""
        config, processes = prepared.config, prepared.processes
        mixture, data = open_clips(config, prepared.loader.mixture, processes.count)
        self.loader = Loader(mixture, data, rank=processes.rank, processes=processes.count, device=processes.device)
        if self.loader.text_width != prepared.loader.text_width:
            raise SpecMismatchError(f"{mixture.first.folder}: its texts are of another codec than the training clips'.")
        self.prepared = prepared

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Means by task and part (`v2a/audio_mse`), every clip in all three tasks, with its caption."""
        prepared = self.prepared
        window = LossWindow(prepared.config.log.time_bins, prepared.processes.device)
        with averaged(prepared.state):
            for step in range(prepared.config.validation.batches):
                (batch,) = self.loader.read(step)
                for task in Task:
                    shares = {name: float(name is task) for name in Task}
                    only = TasksConfig(
                        t2av=shares[Task.T2AV], a2v=shares[Task.A2V], v2a=shares[Task.V2A], text_drop=0.0
                    )
                    drawn = draw(batch, prepared.objective, only, SEED, self.loader.config.global_batch)
                    window.add(clip_losses(prepared.callable_model, prepared.objective, batch, drawn))
        found = window.read(prepared.processes)
        return {name: value for name, value in found.items() if "/time_" not in name}


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Within the block the network has its averaged weights; afterwards its own, bit for bit."""
    own = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    parameters = dict(state.model.named_parameters())
    with torch.no_grad():
        for name, shadow in state.ema.shadow.items():
            parameters[name].copy_(shadow)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in own.items():
                parameters[name].copy_(value)
