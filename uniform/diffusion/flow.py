"""Rectified flow: a straight line from data to noise, and the velocity along it. An option; the paper uses IDDPM.

    x_t = (1 - t / 1000) x_0 + (t / 1000) noise,    velocity = x_0 - noise

Sources: Liu et al. (arXiv:2209.03003); logit-normal times and shift: Esser et al. (arXiv:2403.03206), in the signs and
the scale of Open-Sora 1.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from uniform.diffusion.loss import Denoiser, Losses, broadcast_over, clip_mean, noised, summed
from uniform.pair import Pair
from uniform.tasks import MODALITIES

TIME_SCALE = 1000.0
"""The time of pure noise, as the network receives it."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The objective of rectified flow. Variance logits of the network are ignored."""

    learned_variance: bool = True
    """Whether outputs have a second half of channels, which is cut off."""
    shift: float = 1.0
    """r of t' = r t / (1 + (r - 1) t): above 1 moves times to noise. Open-Sora's rule gives 2.236 at 256 px, 4 s."""
    logit_normal: bool = True
    """Times from a logit-normal distribution (most in the middle), or uniform."""
    noise_both: bool = False
    independent_timesteps: bool = False

    @property
    def first_time(self) -> float:
        """The time of pure noise."""
        return TIME_SCALE

    def draw_times(self, u: Tensor) -> Tensor:
        """Map uniform numbers (B,) in [0, 1) to times in (0, 1000), float32."""
        t = u.double().clamp(1e-7, 1 - 1e-7)
        if self.logit_normal:
            t = torch.special.ndtri(t).sigmoid()
        return (self.shifted(t) * TIME_SCALE).float()

    def shifted(self, t: Tensor) -> Tensor:
        """Times in [0, 1], moved by `shift`; 0 and 1 do not change."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of (B, ...) at times (B,), 0 to 1000."""
        share = broadcast_over(t.float() / TIME_SCALE, clean)
        return (1 - share) * clean + share * noise

    def losses(self, denoiser: Denoiser, clean: Pair, noise: Pair, t: Tensor | Pair, generates: Pair) -> Losses:
        """Mean squared error of the velocity, per clip and generated modality.

        Args:
            clean: normalised latents; noise: standard normal, same shapes.
            t: times 0 to 1000, (B,), or one of each modality.
            generates: bool (B,) per modality.
        """
        noisy, times = noised(self.add_noise, clean, noise, t, generates, noise_both=self.noise_both)
        output = denoiser(noisy, times)
        parts: dict[str, Tensor] = {}
        for modality in MODALITIES:
            velocity, _ = self.split(output.of(modality).float())
            mse = clip_mean((velocity - (clean.of(modality) - noise.of(modality)).float()).square())
            parts[f"{modality}_mse"] = torch.where(generates.of(modality), mse, torch.zeros_like(mse))
        return summed(parts)

    def split(self, output: Tensor) -> tuple[Tensor, None]:
        """Split a network output (B, C or 2C, ...) into velocity and no variance logits."""
        return (output.chunk(2, dim=1)[0] if self.learned_variance else output), None
