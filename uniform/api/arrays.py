"""The named arrays of latents that `LatentDataset` and `LatentStream` give."""

from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from uniform.errors import ShardError
from uniform.latents.format import Card
from uniform.spec import Spec


class Clip(TypedDict):
    """One clip of a dataset of latents. C channels, M tokens, D dimensions of a token."""

    video: npt.NDArray[np.float32]
    """(C, T', H', W'), normalised; float16 and raw with normalise=False."""
    audio: npt.NDArray[np.float32]
    """(C, time, frequency), as the video."""
    text: npt.NDArray[np.float32]
    """(M, D), zero behind the last token."""
    text_mask: npt.NDArray[np.bool_]
    """(M,), True where there is a token; all False for a clip without text."""
    clip_id: str


class Clips(TypedDict):
    """Some clips of a dataset, with a first axis of B clips."""

    video: npt.NDArray[np.float32]
    audio: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32]
    text_mask: npt.NDArray[np.bool_]
    clip_id: list[str]


class Scale(NamedTuple):
    """Shift and scale of one modality's latents, shaped to broadcast over (C, ...)."""

    shift: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    def normalise(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Raw latents (..., C, and the modality's axes) to normalised ones: (raw - shift) / scale."""
        values = raw.astype(np.float32)
        values -= self.shift
        values /= self.scale
        return values


def scale_of(card: Card, spec: Spec, modality: Literal["video", "audio"]) -> Scale:
    """The normalisation that a card names. Raises: ShardError where it has another number of channels."""
    codec = card.video if modality == "video" else card.audio
    channels, *rest = spec.video_latent if modality == "video" else spec.audio_latent
    parts = []
    for name in ("shift", "scale"):
        if len(codec[name]) != channels:
            raise ShardError(
                f"card.json gives {len(codec[name])} numbers as {name} of the {modality} codec, its latents have "
                f"{channels} channels. Make the shards again."
            )
        parts.append(np.asarray(codec[name], np.float32).reshape(channels, *[1] * len(rest)))
    return Scale(*parts)
