"""Catalogue of published weights: location, size and licence (`weights.toml`)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from uniform.config import build, nearest, read_toml
from uniform.errors import ConfigError

_FILE = Path(__file__).with_name("weights.toml")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model's weights on the hub."""

    name: str
    """A codec's name, or for the kinds "captioner" and "model" a name of the catalogue."""
    kind: Literal["video", "audio", "text", "captioner", "model"]
    hub_id: str
    bytes: int
    """Size of the download."""
    about: bool = False
    """`bytes` is an estimate."""
    licence: str
    non_commercial: bool = False
    revision: str | None = None
    """Commit that the toolkit was tested with; None where there is none yet."""
    files: tuple[tuple[str, ...], ...] = ()
    """For kind "model": possible names of each file, best first. Codecs list their files themselves."""

    @property
    def terms(self) -> str:
        """The licence, marked where it is non-commercial."""
        return f"{self.licence} (non-commercial)" if self.non_commercial else self.licence


@dataclass(frozen=True, kw_only=True)
class _Catalogue:
    weights: tuple[Published, ...]


@cache
def catalogue() -> dict[str, Published]:
    """All entries by name, in the order of the file."""
    document = read_toml(_FILE)
    return {entry.name: entry for entry in build(_Catalogue, document.values, document).weights}


def published(name: str) -> Published:
    """The entry called `name`. Raises ConfigError that names the nearest known one."""
    known = catalogue()
    if name not in known:
        raise ConfigError(f"there are no weights called '{name}'{nearest(name, known)}")
    return known[name]
