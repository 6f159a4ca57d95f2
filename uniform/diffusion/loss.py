"""What training minimises: one mean per generated modality, then summed (paper, 3.2.4), with IDDPM's target.

Shapes: B clips, C channels, `...` the modality's other axes. A denoiser is any callable from noisy latents and their
times to a prediction; nothing here knows the network. All arithmetic is float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from uniform.diffusion.schedule import Schedule, linear_schedule
from uniform.pair import Pair
from uniform.tasks import MODALITIES

Denoiser = Callable[[Pair, Pair], Pair]
"""(noisy latents, times (B,) of each, 0 = clean) -> prediction, with twice the channels where a variance is learned."""

HALF_BIN = 1 / 255
"""Half the width of the cells that the likelihood of the last step is counted in."""


class Losses(NamedTuple):
    """Losses per clip, 0 where a modality is not generated."""

    total: Tensor
    """(B,): the sum of all parts; what is minimised."""
    parts: dict[str, Tensor]
    """(B,) each: "video_mse", "audio_mse", and with a learned variance "video_vb", "audio_vb"."""


def where_clip(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for the clips (B,) that are chosen, `no` for the others; both (B, ...)."""
    return torch.where(along(chosen, yes), yes, no)


def along(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped to broadcast over (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def clip_mean(x: Tensor) -> Tensor:
    """(B, ...) -> (B,)"""
    return x.flatten(1).mean(dim=1)


def noised(
    add_noise: Callable[[Tensor, Tensor, Tensor], Tensor],
    clean: Pair,
    noise: Pair,
    t: Tensor | Pair,
    generates: Pair,
    *,
    noise_both: bool,
) -> tuple[Pair, Pair]:
    """What the denoiser is shown: noisy where a modality is generated, exactly clean with time 0 where it is given.

    Args:
        add_noise: (clean, noise, times (B,)) -> noisy.
        t: (B,), one time for both modalities (paper), or one of each.
        generates: bool (B,) per modality.
        noise_both: the letter of equations (1) to (3): the given modality is noised to the same time.
    Returns: noisy latents, times.
    """
    latents, times = [], []
    for modality in MODALITIES:
        time = (t.of(modality) if isinstance(t, Pair) else t).float()
        shown = torch.ones_like(generates.of(modality)) if noise_both else generates.of(modality)
        noisy = add_noise(clean.of(modality).float(), noise.of(modality).float(), time)
        latents.append(where_clip(shown, noisy, clean.of(modality).float()))
        times.append(torch.where(shown, time, torch.zeros_like(time)))
    return Pair(*latents), Pair(*times)


def summed(parts: dict[str, Tensor]) -> Losses:
    """The total of `parts`."""
    return Losses(torch.stack(list(parts.values())).sum(dim=0), parts)


@dataclass(frozen=True, kw_only=True)
class Iddpm:
    """Gaussian diffusion in 1,000 discrete steps; the network predicts the noise (paper) or the velocity.

    Source: Nichol and Dhariwal (arXiv:2102.09672) as Open-Sora 1.2 and PixArt run it; velocity: Salimans and Ho
    (arXiv:2202.00512); min-SNR: Hang et al. (arXiv:2303.09556).
    """

    prediction: Literal["epsilon", "v"] = "epsilon"
    learned_variance: bool = True
    min_snr: float | None = None
    """Cap on the weight that clean times have, 5 in its paper; None gives every time the weight 1 in its own target."""
    variational_weight: float = 1.0
    """Weight of the learned variance's term beside the squared error; with a low `min_snr`, give it that value."""
    noise_both: bool = False
    independent_timesteps: bool = False
    schedule: Schedule = field(default_factory=linear_schedule)

    @property
    def first_time(self) -> float:
        """The time of pure noise."""
        return float(self.schedule.times[-1])

    def draw_times(self, u: Tensor) -> Tensor:
        """Uniform numbers (B,) in [0, 1) to whole times 0 ... 999, float32."""
        return (u.double() * self.schedule.steps).floor().clamp(max=self.schedule.steps - 1).float()

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of (B, ...) at whole times (B,)."""
        alpha_bar = along(self._at(self.schedule.alpha_bar, t), clean)
        return (alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise).float()

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say: the noise, or sqrt(alpha-bar) noise - sqrt(1 - alpha-bar) x_0."""
        if self.prediction == "epsilon":
            return noise
        alpha_bar = along(self._at(self.schedule.alpha_bar, t), clean)
        return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean).float()

    def losses(self, denoiser: Denoiser, clean: Pair, noise: Pair, t: Tensor | Pair, generates: Pair) -> Losses:
        """Mean squared error, and the variational term of the learned variance, per clip.

        Args:
            clean: normalised latents; noise: standard normal, same shapes.
            t: whole times 0 to 999, (B,), or one of each modality.
            generates: bool (B,) per modality.
        """
        noisy, times = noised(self.add_noise, clean, noise, t, generates, noise_both=self.noise_both)
        output = denoiser(noisy, times)
        parts: dict[str, Tensor] = {}
        for modality in MODALITIES:
            counts = generates.of(modality)
            x0, x_t, noise_m = clean.of(modality).float(), noisy.of(modality), noise.of(modality).float()
            said, code = self.split(output.of(modality).float())
            time = times.of(modality)
            mse = clip_mean((said - self.target(x0, noise_m, time)).square()) * self._weight(time)
            parts[f"{modality}_mse"] = torch.where(counts, mse, torch.zeros_like(mse))
            if code is not None:
                bits = self.variational_weight * self.variational_bits(x0, x_t, said.detach(), code, time)
                parts[f"{modality}_vb"] = torch.where(counts, bits, torch.zeros_like(bits))
        return summed(parts)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """A network's output (B, C or 2C, ...) as prediction and variance code."""
        if not self.learned_variance:
            return output, None
        said, code = output.chunk(2, dim=1)
        return said, code

    def variational_bits(self, x0: Tensor, x_t: Tensor, said: Tensor, code: Tensor, t: Tensor) -> Tensor:
        """(B,): bits per number between the true and the modelled step back; at time 0 the likelihood of x_0.

        The mean comes from a prediction without gradient, so that this term trains the variance only.
        """
        true_clean, true_noisy = (along(self._at(weight, t), x0) for weight in self.schedule.posterior_weights)
        guess = clean_of(said, x_t, along(self._at(self.schedule.alpha_bar, t), x0), self.prediction)
        low = along(self._at(self.schedule.log_posterior_variance, t), x0)
        high = along(self._at(self.schedule.beta, t).log(), x0)
        log_variance = low + (code + 1) / 2 * (high - low)
        mean, true_mean = (true_clean * x + true_noisy * x_t for x in (guess, x0))
        bits = normal_kl(true_mean, low, mean, log_variance)
        last = -log_likelihood(x0, mean, log_variance / 2)
        return clip_mean(torch.where(along(t == 0, x0), last, bits)) / math.log(2)

    def _weight(self, t: Tensor) -> Tensor:
        """(B,): weight of the squared error."""
        if self.min_snr is None:
            return torch.ones_like(t)
        alpha_bar = self._at(self.schedule.alpha_bar, t)
        snr = alpha_bar / (1 - alpha_bar)
        return snr.clamp(max=self.min_snr) / (snr if self.prediction == "epsilon" else snr + 1)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries (B,) of a float64 table at whole times, float32 on the times' device."""
        return table.to(t.device)[t.long()].float()


def clean_of(said: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction: Literal["epsilon", "v"]) -> Tensor:
    """The x_0 that a prediction means."""
    if prediction == "v":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * said
    return (x_t - (1 - alpha_bar).sqrt() * said) / alpha_bar.sqrt()


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL divergence of two normal distributions, element by element, in nats."""
    ratio = (log_variance1 - log_variance2).exp()
    return 0.5 * (log_variance2 - log_variance1 + ratio - 1 + (mean1 - mean2).square() * (-log_variance2).exp())


def log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log probability of the cell around `x`, 2/255 wide, under a normal distribution; the outer cells are open.

    The normal distribution function in its tanh form, as in IDDPM.
    """
    inverse = (-log_deviation).exp()
    above, below = (normal_cdf((x - mean + side) * inverse) for side in (HALF_BIN, -HALF_BIN))
    inside = (above - below).clamp(min=1e-12).log()
    lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def normal_cdf(x: Tensor) -> Tensor:
    """Standard normal distribution function, tanh approximation."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
