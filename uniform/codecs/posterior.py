"""The Gaussian posterior of a VAE: mean and log variance, stacked along the channels."""

import torch
from torch import Tensor

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log variances are clamped to it, as in every VAE of this family."""


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std, each (N, C, ...), of moments (N, 2 C, ...)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))
