"""Which captioners there are: one TOML block each (`captioners.toml`), and how one is opened."""

import dataclasses
import importlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from uniform.captioning.base import Captioner, Decoding
from uniform.captioning.frames import RULE
from uniform.captioning.prompts import read_prompt
from uniform.config import Document, build, nearest, read_toml
from uniform.errors import ConfigError

_FILE = Path(__file__).with_name("captioners.toml")
_MODULES = {
    "pllava": "uniform.captioning.pllava",
    "chat": "uniform.captioning.chat",
    "server": "uniform.captioning.server",
}
"""Where each backend is; imported when asked for. Each has `facts(settings)` and `open_captioner(settings, device)`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A captioner: model, prompt, frames and decoding."""

    name: str
    backend: Literal["pllava", "chat", "server"]
    model: str
    """Hub id or folder; for a server the name it serves the model under."""
    revision: str | None = None
    """Of the hub; None is what `uniform weights fetch` recorded, else the main branch."""
    prompt: str = "scene"
    """Name of a prompt, or path of a file with one."""
    frames: int = 8
    """Frames of a clip that the model sees."""
    dtype: str = "bfloat16"
    """bfloat16 or float32."""
    batch_clips: int = 8
    """Clips that go to the model together; halved where they do not fit into memory."""
    decoding: Decoding = field(default_factory=Decoding)
    again: Decoding | None = None
    """Asked once more like this where the first caption is bad; None does not ask again."""
    pooling: tuple[int, ...] = (4, 12, 12)
    """PLLaVA: frames, rows and columns of the visual tokens."""
    lora_alpha: float = 4.0
    """PLLaVA: weight of the low-rank updates, over their rank."""
    content: Literal["video", "images"] = "video"
    """Chat models: frames as one video, or as single images (every model takes those)."""
    told_fps: float = 2.0
    """Chat models: frames per second that the model is told; 8 frames of a clip of 4 s are 2."""
    address: str = ""
    """Server: where it is, up to and with /v1."""
    key_variable: str = "OPENAI_API_KEY"
    """Server: environment variable that holds the key, if it wants one."""
    timeout_s: float = 120.0
    """Server: for one answer."""
    retries: int = 3
    """Server: asked again where it does not answer."""

    def __post_init__(self) -> None:
        for name in ("frames", "batch_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"captioner '{self.name}': {name} is {getattr(self, name)}; it must be 1 or more")
        if len(self.pooling) != 3 or min(self.pooling) < 1:
            raise ConfigError(
                f"captioner '{self.name}': pooling is {list(self.pooling)}; wanted three numbers: frames, rows, columns"
            )

    def changed(self, **options: Any) -> "Settings":
        """With other values; an option that is None changes nothing."""
        return dataclasses.replace(self, **{name: value for name, value in options.items() if value is not None})

    def facts(self) -> dict[str, Any]:
        """Everything that changes captions, for the fingerprint of a set: digests in place of paths and names.

        Raises: WeightsError where the model's files cannot be had, ConfigError.
        """
        return {
            "backend": self.backend,
            "model": importlib.import_module(_MODULES[self.backend]).facts(self),
            "prompt": read_prompt(self.prompt).facts(),
            "frames": {"rule": RULE, "number": self.frames},
            "decoding": self.decoding.as_dict(),
            "again": self.again.as_dict() if self.again else None,
        }

    def open(self, device: str) -> Captioner:
        """The captioner, with its weights. Raises WeightsError, ConfigError."""
        return cast(Captioner, importlib.import_module(_MODULES[self.backend]).open_captioner(self, device))


@dataclass(frozen=True, kw_only=True)
class _File:
    captioner: tuple[Settings, ...]


@cache
def known_captioners() -> dict[str, Settings]:
    """The captioners that come along, by name."""
    return {settings.name: settings for settings in _read(read_toml(_FILE))}


def read_captioner(source: str) -> Settings:
    """The captioner called `source`, or the one of the file at this path (.toml). Raises ConfigError."""
    if source.endswith(".toml"):
        found = _read(read_toml(Path(source)))
        if len(found) != 1:
            raise ConfigError(f"{source}: holds {len(found)} [[captioner]] blocks; wanted one")
        return found[0]
    known = known_captioners()
    if source not in known:
        raise ConfigError(
            f"there is no captioner '{source}'{nearest(source, known)}. One of your own is given by its path."
        )
    return known[source]


def _read(document: Document) -> tuple[Settings, ...]:
    return build(_File, document.values, document).captioner
