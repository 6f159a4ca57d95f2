"""Settings of captioners: one TOML block each (`captioners.toml`), and how to open one."""

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
"""Backend -> module, imported when used. Each has `provenance(settings)` and `open_captioner(settings, device)`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one captioner: model, prompt, frames and decoding."""

    name: str
    backend: Literal["pllava", "chat", "server"]
    model: str
    """Hub id or folder; for a server the name of the served model."""
    revision: str | None = None
    """Of the hub; None is what `uniform weights fetch` recorded, else the main branch."""
    prompt: str = "scene"
    """Name of a built-in prompt, or path of a prompt file."""
    frames: int = 8
    """Frames of a clip that the model gets."""
    dtype: str = "bfloat16"
    """bfloat16 or float32."""
    batch_clips: int = 8
    """Clips that go to the model together; halved where they do not fit into memory."""
    decoding: Decoding = field(default_factory=Decoding)
    again: Decoding | None = None
    """Decoding of the retry after a bad caption; None makes no retry."""
    pooling: tuple[int, ...] = (4, 12, 12)
    """PLLaVA: frames, rows and columns of the visual tokens."""
    lora_alpha: float = 4.0
    """PLLaVA: weight of the low-rank updates, over their rank."""
    content: Literal["video", "images"] = "video"
    """Chat models: frames as one video, or as single images (every model accepts those)."""
    metadata_fps: float = 2.0
    """Chat models: frame rate in the video metadata; 8 frames of a clip of 4 s are 2."""
    address: str = ""
    """Server: its URL, up to and with /v1."""
    key_variable: str = "OPENAI_API_KEY"
    """Server: environment variable with the API key, if it needs one."""
    timeout_s: float = 120.0
    """Server: time limit of one request."""
    retries: int = 3
    """Server: retries of a request without an answer."""

    def __post_init__(self) -> None:
        for name in ("frames", "batch_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"captioner '{self.name}': {name} is {getattr(self, name)}; it must be 1 or more")
        if len(self.pooling) != 3 or min(self.pooling) < 1:
            raise ConfigError(
                f"captioner '{self.name}': pooling is {list(self.pooling)}; wanted three numbers: frames, rows, columns"
            )

    def changed(self, **options: Any) -> "Settings":
        """A copy with other values; an option that is None changes nothing."""
        return dataclasses.replace(self, **{name: value for name, value in options.items() if value is not None})

    def provenance(self) -> dict[str, Any]:
        """Everything that changes captions, for the fingerprint of a set: digests in place of paths and names.

        Raises: WeightsError where the model's files cannot be found or downloaded, ConfigError.
        """
        return {
            "backend": self.backend,
            "model": importlib.import_module(_MODULES[self.backend]).provenance(self),
            "prompt": read_prompt(self.prompt).provenance(),
            "frames": {"rule": RULE, "number": self.frames},
            "decoding": self.decoding.as_dict(),
            "again": self.again.as_dict() if self.again else None,
        }

    def open(self, device: str) -> Captioner:
        """Open the captioner with its weights. Raises WeightsError, ConfigError."""
        return cast(Captioner, importlib.import_module(_MODULES[self.backend]).open_captioner(self, device))


@dataclass(frozen=True, kw_only=True)
class _File:
    captioner: tuple[Settings, ...]


@cache
def known_captioners() -> dict[str, Settings]:
    """The built-in captioners by name."""
    return {settings.name: settings for settings in _read(read_toml(_FILE))}


def read_captioner(source: str) -> Settings:
    """The built-in captioner called `source`, or that of the file at this path (.toml). Raises ConfigError."""
    if source.endswith(".toml"):
        found = _read(read_toml(Path(source)))
        if len(found) != 1:
            raise ConfigError(f"{source}: holds {len(found)} [[captioner]] blocks; wanted one")
        return found[0]
    known = known_captioners()
    if source not in known:
        raise ConfigError(f"there is no captioner '{source}'{nearest(source, known)}. For your own give a path.")
    return known[source]


def _read(document: Document) -> tuple[Settings, ...]:
    return build(_File, document.values, document).captioner
