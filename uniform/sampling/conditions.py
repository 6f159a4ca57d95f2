"""From a request to what the model is conditioned on: text features, and the given modality as its exact latent.

Codecs are those that made the shards the model was trained on, held to their fingerprints.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uniform.codecs.base import (
    AudioCodec,
    TextCodec,
    VideoCodec,
    denormalise,
    normalise,
    open_audio_codec,
    open_text_codec,
    open_video_codec,
)
from uniform.errors import InputError, MediaError
from uniform.latents.format import codec_facts, require_same
from uniform.media.sandbox import MediaSandbox
from uniform.pair import Pair
from uniform.sampling.request import Request
from uniform.spec import Spec
from uniform.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Codecs:
    """The three frozen codecs of a model, open."""

    spec: Spec
    video: VideoCodec
    audio: AudioCodec
    text: TextCodec


@dataclass(frozen=True)
class CodecOptions:
    """Where the weights of the codecs are, and the device; empty for codecs without weights."""

    video: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)


def open_codecs(spec: Spec, cards: Mapping[str, Mapping[str, Any]], options: CodecOptions | None = None) -> Codecs:
    """The codecs that the cards name.

    Args:
        cards: "video", "audio" and "text" to `CodecCard.as_dict()` of the codec that made the training latents.
        options: where their weights are.
    Raises: SpecMismatchError where a codec that opens has another fingerprint than the card's: its latents would
        mean something else to the model.
    """
    given = options or CodecOptions()
    codecs = Codecs(
        spec,
        open_video_codec(cards["video"]["name"], spec, **given.video),
        open_audio_codec(cards["audio"]["name"], spec, **given.audio),
        open_text_codec(cards["text"]["name"], spec, **given.text),
    )
    for kind, codec in (("video", codecs.video), ("audio", codecs.audio), ("text", codecs.text)):
        require_same(
            codec_facts(codec.card.as_dict()),
            codec_facts(cards[kind]),
            f"the {kind} codec",
            "Give the weights and settings that the training shards were made with (see their card.json).",
        )
    return codecs


@dataclass(frozen=True)
class Condition:
    """What one sample is conditioned on."""

    request: Request
    text: Tensor | None
    """(tokens, width); None for the null caption."""
    frames: npt.NDArray[np.uint8] | None = None
    """V2A: the given picture, (T, H, W, 3)."""
    waveform: npt.NDArray[np.float32] | None = None
    """A2V: the given sound, (samples,)."""
    notes: tuple[str, ...] = ()

    def latent(self, codecs: Codecs) -> Tensor | None:
        """The given modality as the model sees it, normalised, without a batch axis; None for T2AV."""
        if self.frames is not None:
            raw = codecs.video.encode(torch.from_numpy(self.frames)[None])
            return normalise(raw, codecs.video.card)[0]
        if self.waveform is not None:
            raw = codecs.audio.encode(torch.from_numpy(self.waveform)[None])
            return normalise(raw, codecs.audio.card)[0]
        return None


def read_condition(request: Request, codecs: Codecs, sandbox: MediaSandbox) -> Condition:
    """Encode the request's text and read its media file.

    The file is opened in the sandbox and brought to the model's spec: A2V takes any file with sound and fills a sound
    that ends early with silence, said in the notes; V2A takes any file with a picture, at least one clip long.
    Raises: InputError that names the file and what is wrong with it.
    """
    text = codecs.text.encode([request.text])[0] if request.text is not None else None
    if text is not None and len(text) >= codecs.text.max_tokens:
        log.warning("%s: the text fills all %d tokens; what goes beyond is cut", request.name, codecs.text.max_tokens)
    if request.media is None:
        return Condition(request, text)
    wants_sound = request.task is Task.A2V
    try:
        loaded = sandbox.load(
            request.media, codecs.spec, request.start_ms, want_video=not wants_sound, want_audio=wants_sound
        )
    except MediaError as error:
        wanted = "sound" if wants_sound else f"a picture of at least {codecs.spec.duration_s} s"
        raise InputError(
            f"{request.name}: {request.media} cannot be used ({error}). {request.task} wants a file with {wanted}."
        ) from error
    return Condition(request, text, loaded.frames, loaded.waveform, loaded.notes)


def decode(latents: Pair, codecs: Codecs) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Normalised latents of B clips to frames (B, T, H, W, 3) and waveforms (B, samples) in [-1, 1]."""
    spec = codecs.spec
    frames = codecs.video.decode(denormalise(latents.video, codecs.video.card), spec.frames)
    waveforms = codecs.audio.decode(denormalise(latents.audio, codecs.audio.card), spec.samples)
    return frames.cpu().numpy(), waveforms.cpu().numpy()
