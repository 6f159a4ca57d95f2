"""Classifier-free guidance: by the text, and by the conditioning modality."""

from dataclasses import dataclass

import torch

from uniform.errors import InputError
from uniform.pair import Pair


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance scales of the text and of the conditioning modality. 1 is no guidance.

    7 is Open-Sora's scale for IDDPM; the paper names none. All channels of the prediction are guided; the variance
    logits are those of the conditional branch. (DiT and PixArt's IDDPM code guides three of four channels; nothing
    here calls for that.)
    """

    video: float = 7.0
    """Scale of the text for the video."""
    audio: float = 7.0
    """Scale of the text for the audio."""
    conditioning: float = 1.0
    """Scale of the conditioning modality; costs a third network call per step. Use it with models that were trained
    with `DiffusionConfig.independent_timesteps`: without the conditioning modality the network reads pure noise in
    its place, beside the partly noised generated modality."""

    def __post_init__(self) -> None:
        for name in ("video", "audio", "conditioning"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"guidance for {name} is {getattr(self, name)}; it must be above 0 (1 is none)")

    @property
    def guides_text(self) -> bool:
        """Whether the text is guided, in either modality."""
        return (self.video, self.audio) != (1.0, 1.0)

    @property
    def guides_conditioning(self) -> bool:
        """Whether the conditioning modality is guided."""
        return self.conditioning != 1.0

    def as_dict(self) -> dict[str, float]:
        """The scales under the keys of the samples' JSON, where "given" is the conditioning modality."""
        return {"video": self.video, "audio": self.audio, "given": self.conditioning}


def guide(guidance: Guidance, full: Pair, no_text: Pair, bare: Pair | None, *, learned_variance: bool) -> Pair:
    """Combine the predictions of the guidance branches.

    Args:
        full: with text and conditioning modality; no_text: without the text; bare: without both, None where the
            conditioning modality is not guided.
        learned_variance: whether the second half of the channels are variance logits.
    """
    guided = []
    for scale, conditional, textless, unconditional in zip(
        (guidance.video, guidance.audio), full, no_text, bare or (None, None), strict=True
    ):
        channels = conditional.shape[1] // 2 if learned_variance else conditional.shape[1]
        with_text, without_text = conditional[:, :channels], textless[:, :channels]
        result = without_text + scale * (with_text - without_text)
        if unconditional is not None:
            result = result + (guidance.conditioning - 1) * (without_text - unconditional[:, :channels])
        guided.append(torch.cat([result, conditional[:, channels:]], dim=1))
    return Pair(*guided)
