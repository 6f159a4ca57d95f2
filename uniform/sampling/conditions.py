"""Build the conditions of a request: text features, and the clean latent of the conditioning modality.

The codecs are those that made the training shards; their fingerprints are compared.
"""

import hashlib
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
from uniform.codecs.plugins import recorded_name
from uniform.errors import InputError, MediaError
from uniform.latents.format import codec_identity, require_same
from uniform.media.sandbox import MediaSandbox
from uniform.sampling.request import MAX_PROMPT_CHARACTERS, Request
from uniform.spec import Spec
from uniform.tasks import Task


@dataclass(frozen=True)
class Codecs:
    """The three opened frozen codecs of a model."""

    spec: Spec
    video: VideoCodec
    audio: AudioCodec
    text: TextCodec


@dataclass(frozen=True)
class CodecOptions:
    """Options of the codecs: where their weights are, and the device. Empty for codecs without weights."""

    video: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)


def open_codecs(spec: Spec, cards: Mapping[str, Mapping[str, Any]], options: CodecOptions | None = None) -> Codecs:
    """Open the codecs that the cards name.

    Args:
        cards: "video", "audio" and "text" to `CodecCard.as_dict()` of the codec that made the training latents.
        options: where their weights are.
    Raises: SpecMismatchError where the fingerprint of an opened codec differs from the card's: the model was trained
        on other latents. ConfigError where a card names code that the options do not trust.
    """
    chosen = options or CodecOptions()
    named = {
        kind: recorded_name(kind, str(cards[kind]["name"]), options, "the checkpoint")
        for kind, options in (("video", chosen.video), ("audio", chosen.audio), ("text", chosen.text))
    }
    codecs = Codecs(
        spec,
        open_video_codec(named["video"][0], spec, **named["video"][1]),
        open_audio_codec(named["audio"][0], spec, **named["audio"][1]),
        open_text_codec(named["text"][0], spec, **named["text"][1]),
    )
    for kind, codec in (("video", codecs.video), ("audio", codecs.audio), ("text", codecs.text)):
        require_same(
            codec_identity(codec.card.as_dict()),
            codec_identity(cards[kind]),
            f"the {kind} codec",
            "Pass the weights and settings that the training shards were made with (see their card.json).",
        )
    return codecs


@dataclass(frozen=True)
class ConditioningMedia:
    """The conditioning modality of a sample; empty for T2AV."""

    frames: npt.NDArray[np.uint8] | None = None
    """V2A: the video, (T, H, W, 3)."""
    waveform: npt.NDArray[np.float32] | None = None
    """A2V: the audio, (samples,)."""
    latent: Tensor | None = None
    """Its normalised latent, without a batch axis."""
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    """Of the array, where it was given as one."""


@dataclass(frozen=True)
class Condition:
    """Text features and conditioning media of one sample."""

    request: Request
    text: Tensor | None
    """(tokens, width); None for the null caption."""
    conditioning: ConditioningMedia
    notes: tuple[str, ...]
    """What was cut or padded."""


class ConditionReader:
    """Encodes texts and conditioning media of requests. What two consecutive requests share is encoded once."""

    def __init__(self, codecs: Codecs, sandbox: MediaSandbox) -> None:
        self._codecs, self._sandbox = codecs, sandbox
        self._text = lru_cache(maxsize=1)(self._encode_text)
        self._media = lru_cache(maxsize=1)(self._read_media)

    def read(self, request: Request, given: npt.NDArray[Any] | None = None) -> Condition:
        """Encode the request's text and read its media file.

        The file is opened in the sandbox and converted to the model's spec. A2V takes any file with an audio stream
        and pads audio that ends early with silence. V2A takes any file with a video stream of one clip or more. A
        text that is too long is cut. The notes list what was padded or cut.

        Args:
            given: the conditioning modality as an array, for a request without a media file: for A2V the waveform,
                float32 (spec.samples,), for V2A the frames, uint8 (spec.frames, spec.height_px, spec.width_px, 3).
        Raises: InputError that names the file or array and what is wrong with it.
        """
        text, text_notes = (None, ()) if request.text is None else self._text(request.text)
        media = ConditioningMedia() if given is None else self._encode_array(given, request)
        if request.media is not None:
            try:
                media = self._media(request.media, request.start_ms, request.task)
            except MediaError as error:
                video = f"video of at least {self._codecs.spec.duration_s} s"
                raise InputError(
                    f"{request.name}: {request.media} cannot be used ({error}). {request.task} needs a file with "
                    f"{'audio' if request.task is Task.A2V else video}."
                ) from error
        return Condition(request, text, media, (*text_notes, *media.notes))

    def _encode_text(self, text: str) -> tuple[Tensor, tuple[str, ...]]:
        codec = self._codecs.text
        kept = text[:MAX_PROMPT_CHARACTERS]
        encoded = codec.encode([kept])[0]
        if len(kept) == len(text) and codec.count_tokens(kept) <= codec.max_tokens:
            return encoded, ()
        return encoded, (f"the text is longer than {codec.max_tokens} tokens; only its beginning is used",)

    def _read_media(self, media: Path, start_ms: int, task: Task) -> ConditioningMedia:
        wants_audio = task is Task.A2V
        codecs = self._codecs
        loaded = self._sandbox.load(media, codecs.spec, start_ms, want_video=not wants_audio, want_audio=wants_audio)
        notes = tuple(map(str, loaded.notes))
        if loaded.waveform is not None:
            return ConditioningMedia(None, loaded.waveform, self._audio_latent(loaded.waveform), notes)
        assert loaded.frames is not None, "one of the two was requested"
        return ConditioningMedia(loaded.frames, None, self._video_latent(loaded.frames), notes)

    def _encode_array(self, given: npt.NDArray[Any], request: Request) -> ConditioningMedia:
        spec = self._codecs.spec
        wanted: tuple[tuple[int, ...], type[np.generic]]
        if request.task is Task.A2V:
            wanted = (spec.samples,), np.float32
        else:
            wanted = (spec.frames, spec.height_px, spec.width_px, 3), np.uint8
        shape, dtype = wanted
        if given.shape != shape or given.dtype != dtype:
            raise InputError(
                f"{request.name}: the array for {request.task} is {given.dtype} {given.shape}; the model wants "
                f"{np.dtype(dtype)} {shape} ({spec.duration_s} s at {spec.fps} fps and {spec.rate_hz:,} Hz). "
                f"Convert it, or pass the path of a media file: files are cut and converted."
            )
        if not np.isfinite(given).all():
            raise InputError(f"{request.name}: the array for {request.task} holds values that are not finite")
        given = np.ascontiguousarray(given)
        sha256 = hashlib.sha256(given.tobytes()).hexdigest()
        if request.task is Task.A2V:
            if (peak := float(np.abs(given).max())) > 1.0:
                raise InputError(f"{request.name}: the waveform has a peak of {peak:.3g}; full scale is 1.0. Scale it.")
            return ConditioningMedia(None, given, self._audio_latent(given), (), sha256)
        return ConditioningMedia(given, None, self._video_latent(given), (), sha256)

    def _audio_latent(self, waveform: npt.NDArray[np.float32]) -> Tensor:
        codec = self._codecs.audio
        return normalise(codec.encode(torch.from_numpy(waveform)[None]), codec.card)[0]

    def _video_latent(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        codec = self._codecs.video
        return normalise(codec.encode(torch.from_numpy(frames)[None]), codec.card)[0]


def decode_video(latent: Tensor, codecs: Codecs) -> npt.NDArray[np.uint8]:
    """Decode the normalised video latent of one clip to frames (T, H, W, 3)."""
    frames = codecs.video.decode(denormalise(latent[None], codecs.video.card), codecs.spec.frames)
    return frames[0].cpu().numpy()


def decode_audio(latent: Tensor, codecs: Codecs) -> npt.NDArray[np.float32]:
    """Decode the normalised audio latent of one clip to a waveform (samples,) in [-1, 1]."""
    waveforms = codecs.audio.decode(denormalise(latent[None], codecs.audio.card), codecs.spec.samples)
    return waveforms[0].cpu().numpy()
