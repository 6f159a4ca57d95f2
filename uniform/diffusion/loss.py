"""The training loss of IDDPM: one mean per generated modality, then the sum (paper, 3.2.4).

Shapes: B clips, C channels, `...` the modality's other axes. A denoiser is any callable from noisy latents and their
times to a prediction. All arithmetic is float32.
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
"""Half the width of the bins of the discrete likelihood of the last step."""


class Losses(NamedTuple):
    """Losses per clip, 0 where a modality is not generated."""

    total: Tensor
    """(B,): the sum of all parts."""
    parts: dict[str, Tensor]
    """(B,) each: "video_mse", "audio_mse", and with a learned variance "video_vb", "audio_vb"."""


def where_clip(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Select `yes` for the clips (B,) that are chosen, `no` for the others; both (B, ...)."""
    return torch.where(broadcast_over(chosen, yes), yes, no)


def broadcast_over(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (B,) to broadcast over (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def clip_mean(x: Tensor) -> Tensor:
    """Mean per clip: (B, ...) -> (B,)."""
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
    """Inputs of the denoiser: generated modalities noisy, conditioning modalities exactly clean with time 0.

    Args:
        add_noise: (clean, noise, times (B,)) -> noisy.
        t: (B,), one time for both modalities (paper), or one of each.
        generates: bool (B,) per modality.
        noise_both: noise conditioning modalities to the same time, as equations (1) to (3) say literally.
    Returns: noisy latents, times.
    """
    latents, times = [], []
    for modality in MODALITIES:
        time = (t.of(modality) if isinstance(t, Pair) else t).float()
        is_noisy = torch.ones_like(generates.of(modality)) if noise_both else generates.of(modality)
        noisy = add_noise(clean.of(modality).float(), noise.of(modality).float(), time)
        latents.append(where_clip(is_noisy, noisy, clean.of(modality).float()))
        times.append(torch.where(is_noisy, time, torch.zeros_like(time)))
    return Pair(*latents), Pair(*times)


def summed(parts: dict[str, Tensor]) -> Losses:
    """Losses with the total of `parts`."""
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
    """Cap on the weight of clean times, 5 in its paper; None weighs all times by 1 in the target's own space."""
    variational_weight: float = 1.0
    """Weight of the variational term beside the squared error; with a low `min_snr`, set it to that value."""
    noise_both: bool = False
    independent_timesteps: bool = False
    schedule: Schedule = field(default_factory=linear_schedule)

    @property
    def first_time(self) -> float:
        """The time of pure noise."""
        return float(self.schedule.times[-1])

    def draw_times(self, u: Tensor) -> Tensor:
        """Map uniform numbers (B,) in [0, 1) to whole times 0 ... 999, float32."""
        return (u.double() * self.schedule.steps).floor().clamp(max=self.schedule.steps - 1).float()

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of (B, ...) at whole times (B,)."""
        alpha_bar = broadcast_over(self._at(self.schedule.alpha_bar, t), clean)
        return (alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise).float()

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Target of the network: the noise, or the velocity sqrt(alpha-bar) noise - sqrt(1 - alpha-bar) x_0."""
        if self.prediction == "epsilon":
            return noise
        alpha_bar = broadcast_over(self._at(self.schedule.alpha_bar, t), clean)
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
            predicted, variance_logits = self.split(output.of(modality).float())
            time = times.of(modality)
            mse = clip_mean((predicted - self.target(x0, noise_m, time)).square()) * self._weight(time)
            parts[f"{modality}_mse"] = torch.where(counts, mse, torch.zeros_like(mse))
            if variance_logits is not None:
                bits = self.variational_weight * self.variational_bits(
                    x0, x_t, predicted.detach(), variance_logits, time
                )
                parts[f"{modality}_vb"] = torch.where(counts, bits, torch.zeros_like(bits))
        return summed(parts)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """A network's output (B, C or 2C, ...) as prediction and variance logits."""
        if not self.learned_variance:
            return output, None
        predicted, variance_logits = output.chunk(2, dim=1)
        return predicted, variance_logits

    def variational_bits(
        self, x0: Tensor, x_t: Tensor, predicted: Tensor, variance_logits: Tensor, t: Tensor
    ) -> Tensor:
        """(B,): KL divergence of the true and the modelled reverse step, in bits per element; at time 0 the likelihood.

        `predicted` has no gradient, so that this term trains the variance only.
        """
        true_clean, true_noisy = (broadcast_over(self._at(weight, t), x0) for weight in self.schedule.posterior_weights)
        pred_x0 = x0_of(predicted, x_t, broadcast_over(self._at(self.schedule.alpha_bar, t), x0), self.prediction)
        low = broadcast_over(self._at(self.schedule.log_posterior_variance, t), x0)
        high = broadcast_over(self._at(self.schedule.beta, t).log(), x0)
        log_variance = low + (variance_logits + 1) / 2 * (high - low)
        mean, true_mean = (true_clean * x + true_noisy * x_t for x in (pred_x0, x0))
        bits = normal_kl(true_mean, low, mean, log_variance)
        last = -log_likelihood(x0, mean, log_variance / 2)
        return clip_mean(torch.where(broadcast_over(t == 0, x0), last, bits)) / math.log(2)

    def _weight(self, t: Tensor) -> Tensor:
        """(B,): weight of the squared error."""
        if self.min_snr is None:
            return torch.ones_like(t)
        alpha_bar = self._at(self.schedule.alpha_bar, t)
        snr = alpha_bar / (1 - alpha_bar)
        return snr.clamp(max=self.min_snr) / (snr if self.prediction == "epsilon" else snr + 1)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries (B,) of a float64 table at whole times, as float32 on the device of `t`."""
        return table.to(t.device)[t.long()].float()


def x0_of(predicted: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction: Literal["epsilon", "v"]) -> Tensor:
    """The x_0 that follows from a prediction."""
    if prediction == "v":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * predicted
    return (x_t - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL divergence of two normal distributions, element by element, in nats."""
    ratio = (log_variance1 - log_variance2).exp()
    return 0.5 * (log_variance2 - log_variance1 + ratio - 1 + (mean1 - mean2).square() * (-log_variance2).exp())


def log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of the bin around `x`, 2/255 wide, under a normal distribution; the outer bins are open.

    The normal distribution function in its tanh form, as in IDDPM.
    """
    inverse = (-log_std).exp()
    above, below = (normal_cdf((x - mean + half) * inverse) for half in (HALF_BIN, -HALF_BIN))
    inside = (above - below).clamp(min=1e-12).log()
    lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def normal_cdf(x: Tensor) -> Tensor:
    """Standard normal distribution function, tanh approximation."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
