"""The interfaces of frozen video, audio and text codecs, for weight-free codecs and published networks alike.

Latents are stored raw: the posterior mean before shift and scale. The model reads normalised latents.
B clips, T frames, H x W pixels, S samples; C, T', H', W' latent channels, frames, rows, columns.
"""

import inspect
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor

from uniform.codecs.plugins import find_factory
from uniform.config import nearest
from uniform.errors import ConfigError
from uniform.fingerprint import digest
from uniform.spec import Spec


@dataclass(frozen=True, kw_only=True)
class CodecCard:
    """Metadata of a codec, stored with every shard that it made."""

    name: str
    """For instance "dct" or "opensora-v1.2"."""
    code_version: int
    """Raised with every change of code that changes latents."""
    settings: dict[str, Any]
    """Every option that changes latents."""
    weights_sha256: str | None
    """Digest of the weights; None for a codec without weights."""
    shift: tuple[float, ...] = ()
    """Per channel, subtracted from raw latents; empty for text."""
    scale: tuple[float, ...] = ()
    """Per channel, divides shifted latents; empty for text."""
    licence: str = "Apache-2.0"

    @property
    def fingerprint(self) -> str:
        """16 hex digits; equal fingerprints make equal latents of equal clips."""
        return digest(asdict(self))

    def as_dict(self) -> dict[str, Any]:
        """All fields and the fingerprint, for card.json."""
        return {
            **asdict(self),
            "shift": list(self.shift),
            "scale": list(self.scale),
            "fingerprint": self.fingerprint,
        }


@runtime_checkable
class VideoCodec(Protocol):
    """Frames to latents and back."""

    card: CodecCard

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3), RGB -> float32 (B, C, T', H', W'), raw posterior mean."""
        ...

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """float32 (B, C, T', H', W'), raw -> uint8 (B, num_frames, H, W, 3), RGB."""
        ...


@runtime_checkable
class AudioCodec(Protocol):
    """Waveforms to latents and back."""

    card: CodecCard

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """float32 (B, S) in [-1, 1] -> (B, mel frames, mel bins), natural log, silence = log 1e-5."""
        ...

    def encode(self, waveforms: Tensor) -> Tensor:
        """float32 (B, S) in [-1, 1] -> float32 (B, C, time, frequency), raw posterior mean."""
        ...

    def decode(self, latents: Tensor, num_samples: int) -> Tensor:
        """float32 (B, C, time, frequency), raw -> float32 (B, num_samples) in [-1, 1]."""
        ...


@runtime_checkable
class TextCodec(Protocol):
    """Captions to token features."""

    card: CodecCard
    width: int
    """Dimensions per token."""
    max_tokens: int
    """Longer captions are cut here."""

    def encode(self, captions: list[str]) -> list[Tensor]:
        """One float32 (tokens, width) per caption, at its real length: 1 to `max_tokens` tokens, never padded."""
        ...

    def count_tokens(self, caption: str) -> int:
        """Tokens of the caption before it is cut: above `max_tokens` where the caption is cut."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """A video or audio codec whose posterior has a mean and a std."""

    def encode_moments(self, media: Tensor, /) -> tuple[Tensor, Tensor]:
        """The input of `encode` -> mean and std, raw, each in the shape of its output."""
        ...


@runtime_checkable
class Shrinkable(Protocol):
    """A codec that can reduce its memory after running out of memory."""

    def halve_batches(self) -> bool:
        """Halve the batches inside the codec; False where they cannot be smaller. May change the last bits."""
        ...


_MODULES = {
    "video": {"dct": "uniform.codecs.video_dct", "opensora-v1.2": "uniform.codecs.video_opensora"},
    "audio": {
        "dct": "uniform.codecs.audio_dct",
        "audioldm": "uniform.codecs.audio_audioldm",
        "audioldm-s-full-v2": "uniform.codecs.audio_audioldm",
        "audioldm-m-full": "uniform.codecs.audio_audioldm",
        "audioldm-l-full": "uniform.codecs.audio_audioldm",
    },
    "text": {
        "bytes": "uniform.codecs.text_bytes",
        "t5-v1_1-xxl": "uniform.codecs.text_t5",
        "t5-v1_1-large": "uniform.codecs.text_t5",
        "t5-v1_1-base": "uniform.codecs.text_t5",
        "flan-t5-xxl": "uniform.codecs.text_t5",
        "flan-t5-base": "uniform.codecs.text_t5",
    },
}
"""Module of each codec; its `open_codec(name, spec, **options)` makes the codec. Imported when needed."""


def open_video_codec(name: str, spec: Spec, **options: Any) -> VideoCodec:
    """The video codec called `name`, ready to use; `uniform.codecs.plugins` says what a name may be.

    Raises: ConfigError for an unknown name or option, or where a codec from outside is not a video codec.
    """
    return cast(VideoCodec, _open("video", name, spec, options))


def open_audio_codec(name: str, spec: Spec, **options: Any) -> AudioCodec:
    """The audio codec called `name`, ready to use; see `open_video_codec`. Raises: ConfigError."""
    return cast(AudioCodec, _open("audio", name, spec, options))


def open_text_codec(name: str, spec: Spec, **options: Any) -> TextCodec:
    """The text codec called `name`, ready to use; see `open_video_codec`. Raises: ConfigError."""
    return cast(TextCodec, _open("text", name, spec, options))


def codec_module(kind: str, name: str) -> str:
    """The module that makes the codec `name` of `kind` "video", "audio" or "text". Raises ConfigError for another."""
    known = _MODULES[kind]
    if name not in known:
        raise ConfigError(f"there is no {kind} codec '{name}'; known: {', '.join(sorted(known))}")
    return known[name]


MEMBERS = {
    "video": ("card", "encode", "decode"),
    "audio": ("card", "log_mel", "encode", "decode"),
    "text": ("card", "width", "max_tokens", "encode", "count_tokens"),
}
"""Members of the three interfaces."""


def _open(kind: str, name: str, spec: Spec, options: dict[str, Any]) -> object:
    factory = find_factory(kind, name, _MODULES[kind])
    parameters = list(inspect.signature(factory).parameters.values())
    known = [parameter.name for parameter in parameters[2:]]
    from_outside = name not in _MODULES[kind]
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        if from_outside and "device" not in known:  # the stages pass it to every codec
            options = {option: value for option, value in options.items() if option != "device"}
        for option in options:
            if option not in known:
                raise ConfigError(f"the {kind} codec '{name}' has no option '{option}'{nearest(option, known)}")
    codec = factory(name, spec, **options)
    if from_outside:
        _require_codec(kind, name, codec)
    return codec


def _require_codec(kind: str, name: str, codec: object) -> None:
    """Check what a factory from outside returned. Raises: ConfigError."""
    card = getattr(codec, "card", None)
    missing = [member for member in MEMBERS[kind] if not hasattr(codec, member)]
    if missing:
        raise ConfigError(
            f"{kind} codec '{name}': its factory returned {type(codec).__name__}, which lacks {', '.join(missing)} of "
            f"uniform.codecs.base.{kind.capitalize()}Codec"
        )
    if not isinstance(card, CodecCard) or card.name != name:
        found = f"is of {card.name!r}" if isinstance(card, CodecCard) else f"is {type(card).__name__}"
        raise ConfigError(
            f"{kind} codec '{name}': its card {found}; wanted a CodecCard whose name is '{name}', the first argument "
            f"of its factory, so that shards and checkpoints lead back to it"
        )


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """`values` shaped to broadcast over the channel axis (1) of `like`, in its dtype and on its device."""
    shape = (1, len(values)) + (1,) * (like.dim() - 2)
    return like.new_tensor(values).reshape(shape)


def normalise(raw: Tensor, card: CodecCard) -> Tensor:
    """Raw latents (B, C, ...) to normalised latents: (raw - shift) / scale, per channel."""
    return (raw - per_channel(card.shift, raw)) / per_channel(card.scale, raw)


def denormalise(latents: Tensor, card: CodecCard) -> Tensor:
    """The inverse of `normalise`."""
    return latents * per_channel(card.scale, latents) + per_channel(card.shift, latents)
