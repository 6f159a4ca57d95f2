"""The running average of the weights, in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uniform.training.settings.config import EmaConfig


class Ema:
    """Exponential moving average of a model's trained parameters, which may be sharded."""

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self.shadow: dict[str, Tensor] = {
            name: parameter.detach().clone().float()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def decay_at(self, step: int) -> float:
        """The decay of the update after `step` finished steps."""
        return min(self.config.decay, (1 + step) / (10 + step)) if self.config.ramp else self.config.decay

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """shadow <- decay * shadow + (1 - decay) * parameter, in place."""
        shadow = list(self.shadow.values())
        current = [parameters[name].detach() for name in self.shadow]
        torch._foreach_lerp_(shadow, current, 1 - self.decay_at(step))
