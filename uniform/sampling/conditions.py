"""From a request to what the model is conditioned on: text features, and the given modality as its exact latent.

Codecs are those that made the shards the model was trained on, held to their fingerprints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
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
from uniform.sampling.request import MAX_PROMPT_CHARACTERS, Request
from uniform.spec import Spec
from uniform.tasks import Task


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
class Given:
    """The given modality of a sample; empty for T2AV."""

    frames: npt.NDArray[np.uint8] | None = None
    """V2A: the picture, (T, H, W, 3)."""
    waveform: npt.NDArray[np.float32] | None = None
    """A2V: the sound, (samples,)."""
    latent: Tensor | None = None
    """It as the model sees it, normalised, without a batch axis."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """What one sample is conditioned on."""

    request: Request
    text: Tensor | None
    """(tokens, width); None for the null caption."""
    given: Given
    notes: tuple[str, ...]
    """What was cut or filled up."""


class Reader:
    """Reads what requests are conditioned on. A text or a file that two in a row share is encoded once."""

    def __init__(self, codecs: Codecs, sandbox: MediaSandbox) -> None:
        self._codecs, self._sandbox = codecs, sandbox
        self._text = lru_cache(maxsize=1)(self._encode_text)
        self._given = lru_cache(maxsize=1)(self._read_given)

    def read(self, request: Request) -> Condition:
        """Encode the request's text and read its media file.

        The file is opened in the sandbox and brought to the model's spec: A2V takes any file with sound and fills a
        sound that ends early with silence, V2A takes any file with a picture, at least one clip long. A text that is
        too long is cut. What was filled or cut is said in the notes.
        Raises: InputError that names the file and what is wrong with it.
        """
        text, text_notes = (None, ()) if request.text is None else self._text(request.text)
        given = Given()
        if request.media is not None:
            try:
                given = self._given(request.media, request.start_ms, request.task)
            except MediaError as error:
                picture = f"a picture of at least {self._codecs.spec.duration_s} s"
                raise InputError(
                    f"{request.name}: {request.media} cannot be used ({error}). {request.task} wants a file with "
                    f"{'sound' if request.task is Task.A2V else picture}."
                ) from error
        return Condition(request, text, given, (*text_notes, *given.notes))

    def _encode_text(self, text: str) -> tuple[Tensor, tuple[str, ...]]:
        codec = self._codecs.text
        kept = text[:MAX_PROMPT_CHARACTERS]
        encoded = codec.encode([kept])[0]
        if len(kept) == len(text) and codec.count_tokens(kept) <= codec.max_tokens:
            return encoded, ()
        return encoded, (f"the text is longer than {codec.max_tokens} tokens; the model was told its beginning only",)

    def _read_given(self, media: Path, start_ms: int, task: Task) -> Given:
        wants_sound = task is Task.A2V
        codecs = self._codecs
        loaded = self._sandbox.load(media, codecs.spec, start_ms, want_video=not wants_sound, want_audio=wants_sound)
        if loaded.waveform is not None:
            raw = codecs.audio.encode(torch.from_numpy(loaded.waveform)[None])
            return Given(
                waveform=loaded.waveform,
                latent=normalise(raw, codecs.audio.card)[0],
                notes=tuple(map(str, loaded.notes)),
            )
        raw = codecs.video.encode(torch.from_numpy(loaded.frames)[None])
        return Given(
            frames=loaded.frames, latent=normalise(raw, codecs.video.card)[0], notes=tuple(map(str, loaded.notes))
        )


def decode_video(latent: Tensor, codecs: Codecs) -> npt.NDArray[np.uint8]:
    """One clip's normalised video latent to frames (T, H, W, 3)."""
    frames = codecs.video.decode(denormalise(latent[None], codecs.video.card), codecs.spec.frames)
    return frames[0].cpu().numpy()


def decode_audio(latent: Tensor, codecs: Codecs) -> npt.NDArray[np.float32]:
    """One clip's normalised audio latent to a waveform (samples,) in [-1, 1]."""
    waveforms = codecs.audio.decode(denormalise(latent[None], codecs.audio.card), codecs.spec.samples)
    return waveforms[0].cpu().numpy()
