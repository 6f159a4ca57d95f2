"""Classifier-free guidance: away from what the network would say without the text, or without the given modality."""

from dataclasses import dataclass

import torch

from uniform.errors import InputError
from uniform.pair import Pair


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How much more the text counts, and the given modality. 1 is no guidance.

    7 is Open-Sora's scale for IDDPM; the paper names none. All channels of the prediction are guided; the variance
    code is the conditional one. (DiT and PixArt's IDDPM path guide three of four channels, for no reason here.)
    """

    video: float = 7.0
    """Scale of the text for the picture."""
    audio: float = 7.0
    """Scale of the text for the sound."""
    given: float = 1.0
    """Scale of the given modality, at the cost of a third network call. For models that were trained with
    `DiffusionConfig.independent_timesteps`: what is hidden is shown as pure noise beside what is half made."""

    def __post_init__(self) -> None:
        for name in ("video", "audio", "given"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"guidance for {name} is {getattr(self, name)}; it must be above 0 (1 is none)")

    @property
    def of_text(self) -> bool:
        """Whether the text is guided at all."""
        return (self.video, self.audio) != (1.0, 1.0)

    @property
    def of_given(self) -> bool:
        """Whether the given modality is guided."""
        return self.given != 1.0


def guide(guidance: Guidance, full: Pair, no_text: Pair, bare: Pair | None, *, learned_variance: bool) -> Pair:
    """The guided prediction.

    Args:
        full: with text and given modality; no_text: without the text; bare: without both, None if not guided by it.
        learned_variance: whether the second half of the channels is a variance code.
    """
    guided = []
    for scale, said, plain, least in zip(
        (guidance.video, guidance.audio), full, no_text, bare or (None, None), strict=True
    ):
        channels = said.shape[1] // 2 if learned_variance else said.shape[1]
        own, other = said[:, :channels], plain[:, :channels]
        result = other + scale * (own - other)
        if least is not None:
            result = result + (guidance.given - 1) * (other - least[:, :channels])
        guided.append(torch.cat([result, said[:, channels:]], dim=1))
    return Pair(*guided)
