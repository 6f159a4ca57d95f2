"""The discrete noise schedule of IDDPM: 1,000 linear steps, and its respacing to fewer.

Symbols follow the papers: beta_t, alpha-bar_t; x_t = sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) noise.
Sources: Ho et al. (arXiv:2006.11239); Nichol and Dhariwal (arXiv:2102.09672); Lin et al. (arXiv:2305.08891).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from uniform.errors import InputError

TRAINING_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


@dataclass(frozen=True)
class Schedule:
    """A sequence of noise levels, from nearly clean to nearly pure noise. Float64, on the CPU."""

    times: Tensor
    """Long (steps,): the time, 0 to 999, that the network receives at each step."""
    alpha_bar: Tensor
    """Float64 (steps,): alpha-bar, the remaining share of the signal's variance."""

    @property
    def steps(self) -> int:
        """Number of noise levels."""
        return len(self.times)

    @property
    def alpha_bar_before(self) -> Tensor:
        """Float64 (steps,): alpha-bar one step cleaner; 1 before the first."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def beta(self) -> Tensor:
        """Float64 (steps,): variance that a step adds; the posterior's upper bound."""
        return 1 - self.alpha_bar / self.alpha_bar_before

    @property
    def log_posterior_variance(self) -> Tensor:
        """Float64 (steps,): log beta-tilde, the lower bound; step 0 has none and takes that of step 1."""
        variance = self.beta * (1 - self.alpha_bar_before) / (1 - self.alpha_bar)
        first = variance[1:2] if self.steps > 1 else self.beta
        return torch.cat([first, variance[1:]]).log()

    @property
    def posterior_weights(self) -> tuple[Tensor, Tensor]:
        """Float64 (steps,) twice: weights of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        of_clean = self.beta * self.alpha_bar_before.sqrt() / (1 - self.alpha_bar)
        of_noisy = (1 - self.alpha_bar_before) * (1 - self.beta).sqrt() / (1 - self.alpha_bar)
        return of_clean, of_noisy

    def respace(self, steps: int) -> "Schedule":
        """Keep `steps` evenly spaced noise levels, first and last included; a single one is the last.

        Raises: InputError unless 1 <= steps <= the schedule's own.
        Source: `space_timesteps` of IDDPM with one section (which keeps the first where it keeps only one).
        """
        if not 1 <= steps <= self.steps:
            raise InputError(f"{steps} steps of a schedule of {self.steps}; take 1 to {self.steps}")
        last = self.steps - 1
        kept = torch.tensor([round(index * (last / (steps - 1))) for index in range(steps)] if steps > 1 else [last])
        return Schedule(self.times[kept], self.alpha_bar[kept])


def linear_schedule(*, zero_terminal_snr: bool = False) -> Schedule:
    """1,000 steps, beta from 1e-4 to 0.02.

    Args:
        zero_terminal_snr: shift and stretch sqrt(alpha-bar) so that the last step is pure noise (Lin et al., 3.2).
    """
    beta = torch.linspace(BETA_FIRST, BETA_LAST, TRAINING_STEPS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    if zero_terminal_snr:
        root = alpha_bar.sqrt()
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return Schedule(torch.arange(TRAINING_STEPS), alpha_bar)
