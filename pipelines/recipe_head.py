"""The head of a recipe: options that several stages must agree on, written once.

    [media]
    windows = 3                  # clips of the spec that each clip holds

    [codecs.video]
    name = "opensora-v1.2"
    options = { weights = "..." }   # also: [codecs.audio], [codecs.text]

    [schedule]                   # limits of what is under way at once: see pipelines/schedule.py
    max_units_in_flight = 64

Each stage takes the options it has a field for. A recipe of version 0.3.0, with these options in its stages, is still
read, as long as all stages of it agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.schedule import Schedule
from uniform.config import Document, build
from uniform.errors import ConfigError

HEAD_TABLES = ("media", "codecs", "schedule")


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A frozen codec by name."""

    name: str
    """As in `uniform doctor`: "dct", "opensora-v1.2", "audioldm-s-full-v2", "bytes", "t5-v1_1-xxl"."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the codec, for instance `weights`, a folder."""


@dataclass(frozen=True, kw_only=True)
class Codecs:
    """The codecs of a recipe; None leaves the choice to each stage."""

    video: Codec | None = None
    audio: Codec | None = None
    text: Codec | None = None


@dataclass(frozen=True, kw_only=True)
class Media:
    """Geometry of the clips, besides the spec."""

    windows: int | None = None
    """Clips of the spec that each clip holds, one beginning at each whole second. Paper, 4.1: 1."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Options that several stages must agree on, and the limits of a run."""

    media: Media = field(default_factory=Media)
    codecs: Codecs = field(default_factory=Codecs)
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class _Shared:
    """An option of the head: its key there, and the stages' option that takes it."""

    key: str
    stages: Sequence[str]
    option: str
    must_agree: bool = True
    """False where stages may differ: each caption set may have its own text codec."""


_ENCODERS = ("encode_latents", "encode_stdev")
_SHARED = (
    _Shared("media.windows", ("clip_media", *_ENCODERS), "windows"),
    _Shared("codecs.video.name", _ENCODERS, "video"),
    _Shared("codecs.video.options", _ENCODERS, "video_options"),
    _Shared("codecs.audio.name", _ENCODERS, "audio"),
    _Shared("codecs.audio.options", _ENCODERS, "audio_options"),
    _Shared("codecs.text.name", ("encode_text",), "codec", must_agree=False),
    _Shared("codecs.text.options", ("encode_text",), "options", must_agree=False),
)


def read_head(document: Document) -> Head:
    """The head of a recipe. Raises ConfigError that names file, line and key."""
    return build(Head, {key: document.values[key] for key in HEAD_TABLES if key in document.values}, document)


def inherited(head: Head, use: str, options: Mapping[str, Any], document: Document, prefix: str) -> dict[str, Any]:
    """The options of one stage, with those that it takes from the head.

    Args:
        use: name of the stage's file.
        options: its table in the recipe.
        prefix: dotted path of that table, for errors.
    Raises: ConfigError where an option stands in the head and in the stage.
    """
    found = dict(options)
    for shared in _SHARED:
        value = _value(head, shared.key)
        if use not in shared.stages or value is None:
            continue
        if shared.option in found:
            raise ConfigError(
                f"{document.where(shared.option)}: '{prefix}.{shared.option}' has moved to the head of the recipe, "
                f"where '{shared.key}' is set too; remove it from the stage"
            )
        found[shared.option] = value
    return found


def require_agreement(stages: Iterable[tuple[str, Any]]) -> None:
    """Refuse stages with different values of an option that they must agree on.

    Args:
        stages: name of the file and stage.
    Raises: ConfigError that names the key of the head.
    """
    taken: dict[str, tuple[str, Any]] = {}
    for use, stage in stages:
        for shared in _SHARED:
            if use not in shared.stages or not shared.must_agree:
                continue
            value = getattr(stage, shared.option)
            first, wanted = taken.setdefault(shared.key, (use, value))
            if value != wanted:
                raise ConfigError(
                    f"{first}.{shared.option} is {wanted!r} and {use}.{shared.option} is {value!r}; they must be "
                    f"equal. Remove both, and set {shared.key} at the head of the recipe."
                )


def _value(head: Head, key: str) -> Any:
    value: Any = head
    for name in key.split("."):
        value = None if value is None else getattr(value, name)
    return value
