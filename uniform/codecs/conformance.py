"""The conformance test of a codec: does it keep the interface that stages, training and sampling rely on?

Behind `uniform codec check NAME`, for codecs of others and for the toolkit's own. Inputs are generated: a moving
pattern with noise, tones and silence, short and long captions. Every check runs; the result lists all of them.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uniform.codecs.base import (
    MEMBERS,
    AudioCodec,
    CodecCard,
    TextCodec,
    VideoCodec,
    open_audio_codec,
    open_text_codec,
    open_video_codec,
)
from uniform.codecs.score import mel_error, psnr_db
from uniform.errors import ConfigError, UniformError
from uniform.spec import Spec

KINDS = tuple(MEMBERS)
FLOAT16_MAX = 65_504.0
BATCH_TOLERANCE = 1e-3
"""Largest difference of a clip's latents alone and in a batch, relative to their largest value: they are stored as
float16, which keeps three digits."""
CAPTIONS = ("a dog barks", "rain on a tin roof, thunder far away", "Ein Hund bellt — und schläft 🐕", "")
LONG_CAPTION = "a small dog barks at the sea " * 2_000


@dataclass(frozen=True)
class Check:
    """One promise of the interface."""

    promise: str
    problem: str | None
    """What was found instead; None where the promise is kept."""


@dataclass(frozen=True)
class Conformance:
    """All checks of a codec."""

    kind: str
    card: CodecCard
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Measured quality."""

    @property
    def passed(self) -> bool:
        """Whether every promise is kept."""
        return all(check.problem is None for check in self.checks)


Promise = tuple[str, Callable[[], str | None]]


def check_codec(name: str, spec: Spec, kind: str | None = None, options: dict[str, Any] | None = None) -> Conformance:
    """Open a codec and check every promise of its interface.

    Args:
        name: of the codec: built in, an entry point, or package.module:factory.
        spec: geometry of the clips.
        kind: "video", "audio" or "text"; None takes the first that the codec opens as.
        options: of the codec.
    Raises: ConfigError where the codec cannot be opened at all, WeightsError.
    """
    kind = kind or _kind_of(name, spec, options or {})

    def opened() -> Any:
        opener: dict[str, Callable[..., object]] = {
            "video": open_video_codec,
            "audio": open_audio_codec,
            "text": open_text_codec,
        }
        return opener[kind](name, spec, **(options or {}))

    codec = opened()
    notes: list[str] = []
    of_kind: dict[str, Callable[[Any, Spec, list[str]], Iterator[Promise]]] = {
        "video": _video_promises,
        "audio": _audio_promises,
        "text": _text_promises,
    }
    promises = [*_card_promises(kind, codec.card, spec, lambda: opened().card), *of_kind[kind](codec, spec, notes)]
    return Conformance(
        kind, codec.card, tuple(Check(promise, _problem(run)) for promise, run in promises), tuple(notes)
    )


def _kind_of(name: str, spec: Spec, options: dict[str, Any]) -> str:
    """The kind whose interface the codec has; audio before video, whose members an audio codec has too."""
    errors = []
    for kind, opener in (("text", open_text_codec), ("audio", open_audio_codec), ("video", open_video_codec)):
        try:
            opener(name, spec, **options)
        except ConfigError as error:
            errors.append(str(error))
            continue
        return kind
    raise ConfigError(errors[-1] if len(set(errors)) == 1 else "\n".join(errors))


def _problem(run: Callable[[], str | None]) -> str | None:
    try:
        return run()
    except Exception as error:  # code of others may raise anything; it is reported, and the other checks still run
        return f"raised {type(error).__name__}: {error}"


def _card_promises(kind: str, card: CodecCard, spec: Spec, again: Callable[[], CodecCard]) -> Iterator[Promise]:
    channels = {"video": spec.video_channels, "audio": spec.audio_channels, "text": 0}[kind]

    def plain() -> str | None:
        loaded = json.loads(json.dumps(card.as_dict(), allow_nan=False))
        return None if loaded["fingerprint"] == card.fingerprint else "changes on its way through JSON"

    def per_channel() -> str | None:
        if (len(card.shift), len(card.scale)) != (channels, channels):
            return f"{len(card.shift)} shifts and {len(card.scale)} scales for {channels} channels"
        finite = all(math.isfinite(value) for value in (*card.shift, *card.scale))
        return None if finite and all(scale > 0 for scale in card.scale) else "a shift or scale is not finite, or <= 0"

    def stable() -> str | None:
        return None if again().fingerprint == card.fingerprint else "a second opening has another fingerprint"

    yield "the card is plain data with finite numbers", plain
    yield "the card has a shift and a positive scale for each channel", per_channel
    yield "opening it again gives the same fingerprint", stable


def _latent_promises(
    media: Tensor, shape: tuple[int, ...], encode: Callable[[Tensor], Tensor], notes: list[str]
) -> Iterator[Promise]:
    """What video and audio codecs promise about `encode`; `media` holds two clips or more."""
    before = media.clone()
    latents = encode(media).cpu()

    def form() -> str | None:
        wanted = (len(media), *shape)
        if tuple(latents.shape) != wanted or latents.dtype != torch.float32:
            return f"{latents.dtype} {tuple(latents.shape)}; the spec wants torch.float32 {wanted}"
        return None

    def storable() -> str | None:
        largest = float(latents.abs().max())
        return None if math.isfinite(largest) and largest < FLOAT16_MAX else f"largest value {largest:.3g}"

    def alone() -> str | None:
        difference = max(
            float((encode(media[row : row + 1]).cpu()[0] - latents[row]).abs().max()) for row in range(len(media))
        )
        allowed = BATCH_TOLERANCE * max(float(latents.abs().max()), 1e-6)
        return None if difference <= allowed else f"alone and in a batch differ by {difference:.3g}"

    yield "encode gives float32 latents in the shape of the spec", form
    yield "latents are finite and fit into float16", storable
    yield "encoding twice gives the same bytes", lambda: _same(encode(media).cpu(), latents)
    yield "a clip's latents do not depend on its batch", alone
    yield "encode leaves its input unchanged", lambda: _same(media, before)
    yield "different clips have different latents", lambda: None if (latents[0] != latents[1]).any() else "equal"


def _same(found: Tensor, wanted: Tensor) -> str | None:
    return None if torch.equal(found, wanted) else f"largest difference {float((found - wanted).abs().max()):.3g}"


def _video_promises(codec: VideoCodec, spec: Spec, notes: list[str]) -> Iterator[Promise]:
    frames = generated_frames(spec)
    yield from _latent_promises(frames, spec.video_latent, codec.encode, notes)

    def form() -> str | None:
        decoded = codec.decode(codec.encode(frames), spec.frames).cpu()
        if decoded.shape != frames.shape or decoded.dtype != torch.uint8:
            return f"{decoded.dtype} {tuple(decoded.shape)}; wanted torch.uint8 {tuple(frames.shape)}"
        notes.append(f"PSNR of generated frames: {psnr_db(frames, decoded):.1f} dB")
        return None

    yield "decode gives uint8 frames of the clip's length and size", form
    yield (
        "frames of a wrong type are refused with an error of uniform.errors",
        lambda: _refuses(codec.encode, frames[0]),
    )


def _audio_promises(codec: AudioCodec, spec: Spec, notes: list[str]) -> Iterator[Promise]:
    waveforms = generated_waveforms(spec)
    yield from _latent_promises(waveforms, spec.audio_latent, codec.encode, notes)

    def form() -> str | None:
        decoded = codec.decode(codec.encode(waveforms), spec.samples).cpu()
        if decoded.shape != waveforms.shape or decoded.dtype != torch.float32:
            return f"{decoded.dtype} {tuple(decoded.shape)}; wanted torch.float32 {tuple(waveforms.shape)}"
        peak = float(decoded.abs().max())
        notes.append(f"log-mel error of a generated tone: {mel_error(codec, waveforms[0], decoded[0]):.2f} nepers")
        return None if peak <= 1.0 else f"peak {peak:.3g}; full scale is 1.0"

    def mel() -> str | None:
        found = codec.log_mel(waveforms)
        kept = found.dim() == 3 and len(found) == len(waveforms) and bool(found.isfinite().all())
        return None if kept else f"{tuple(found.shape)}; wanted finite (clips, mel frames, mel bins)"

    yield "decode gives float32 waveforms of the clip's length in [-1, 1]", form
    yield "log_mel gives a finite spectrogram of each clip, of silence too", mel
    yield (
        "a waveform of a wrong shape is refused with an error of uniform.errors",
        lambda: _refuses(codec.encode, waveforms[0]),
    )


def _text_promises(codec: TextCodec, spec: Spec, notes: list[str]) -> Iterator[Promise]:
    captions = [*CAPTIONS, LONG_CAPTION]
    features = codec.encode(captions)

    def form() -> str | None:
        for caption, one in zip(captions, features, strict=True):
            tokens = one.shape[0] if one.dim() == 2 else 0
            if one.dtype != torch.float32 or one.shape[1:] != (codec.width,) or not 1 <= tokens <= codec.max_tokens:
                return (
                    f"{caption[:30]!r}: {one.dtype} {tuple(one.shape)}; wanted torch.float32 (1 to {codec.max_tokens}, "
                    f"{codec.width})"
                )
        return None

    def counts() -> str | None:
        for caption, one in zip(captions, features, strict=True):
            counted = codec.count_tokens(caption)
            if min(counted, codec.max_tokens) != len(one) and caption:
                return f"{caption[:30]!r}: counts {counted} tokens, encodes {len(one)}"
        long = codec.count_tokens(LONG_CAPTION)
        return (
            None if long > codec.max_tokens else f"counts {long} tokens of a caption of {len(LONG_CAPTION)} characters"
        )

    def repeats() -> str | None:
        again = codec.encode(captions)
        return next((found for a, b in zip(again, features, strict=True) if (found := _same(a, b))), None)

    def alone() -> str | None:
        for caption, one in zip(captions, features, strict=True):
            (found,) = codec.encode([caption])
            if found.shape != one.shape or float((found - one).abs().max()) > BATCH_TOLERANCE * float(one.abs().max()):
                return f"{caption[:30]!r} differs alone and in a batch"
        return None

    yield "encode gives float32 features of 1 to max_tokens tokens, of the empty caption too", form
    yield "features are finite", lambda: None if all(one.isfinite().all() for one in features) else "they are not"
    yield "encoding twice gives the same bytes", repeats
    yield "a caption's features do not depend on its batch", alone
    yield "count_tokens is what encode gives, and above max_tokens where it cuts", counts


def _refuses(encode: Callable[[Tensor], Tensor], wrong: Tensor) -> str | None:
    try:
        encode(wrong)
    except UniformError:
        return None
    return f"{wrong.dtype} {tuple(wrong.shape)} was encoded"


def generated_frames(spec: Spec) -> Tensor:
    """Two different clips, uint8 (2, T, H, W, 3): moving stripes with noise, and noise that changes slowly."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec.frames, spec.height_px, spec.width_px, 3)
    columns = torch.arange(spec.width_px) / 8
    moving = 127 + 90 * torch.sin(columns + torch.arange(spec.frames)[:, None] / 5)  # (T, W)
    stripes = moving[:, None, :, None] + 10 * torch.randn(shape, generator=generator)
    slow = torch.rand((1, *shape[1:]), generator=generator) * torch.linspace(100, 255, spec.frames)[:, None, None, None]
    return torch.stack([stripes, slow]).round().clamp(0, 255).to(torch.uint8)


def generated_waveforms(spec: Spec) -> Tensor:
    """Three clips, float32 (3, S): a tone that rises, noise, and silence."""
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(spec.samples) / spec.rate_hz
    tone = 0.5 * torch.sin(2 * math.pi * (200 + 100 * time_s) * time_s)
    noise = 0.1 * torch.randn(spec.samples, generator=generator)
    return torch.stack([tone, noise, torch.zeros(spec.samples)]).float().clamp(-1, 1)
