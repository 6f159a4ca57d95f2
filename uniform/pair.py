"""Pairs of a video tensor and an audio tensor of the same clips."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from uniform.tasks import Modality


class Pair(NamedTuple):
    """Latents, noise, predictions or losses of both modalities; the first axis of each is B clips."""

    video: Tensor
    """(B, C, T', H', W')"""
    audio: Tensor
    """(B, C, time, frequency)"""

    def of(self, modality: Modality) -> Tensor:
        """The tensor of one modality."""
        return self.video if modality == "video" else self.audio

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pair":
        """`change` applied to both."""
        return Pair(change(self.video), change(self.audio))
