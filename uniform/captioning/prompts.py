"""Prompts: named, versioned text files that a user may replace by one of his own.

    version = 1
    system = "What the model is and how it shall write."       # may be empty
    user = "Describe the video. It was filed under: {labels}."  # may name {label}, {labels}, {dataset}

The text is part of a caption set's fingerprint, its name is not: a copy under another name makes the same captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniform.captioning.wording import check_template
from uniform.config import build, nearest, read_toml
from uniform.errors import ConfigError

FIELDS = ("label", "labels", "dataset")
_FOLDER = Path(__file__).with_name("prompts")


@dataclass(frozen=True, kw_only=True)
class _File:
    version: int
    about: str = ""
    system: str = ""
    user: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What every clip's question is made of."""

    name: str
    version: int
    system: str
    user: str

    @property
    def names_labels(self) -> bool:
        """Whether questions differ from clip to clip."""
        return bool(check_template(self.system, FIELDS, "system") | check_template(self.user, FIELDS, "user"))

    def filled(self, words: Mapping[str, str]) -> tuple[str, str]:
        """System and user text with the fields' words."""
        return self.system.format_map(words), self.user.format_map(words)

    def facts(self) -> dict[str, Any]:
        """What captions depend on."""
        return {"system": self.system, "user": self.user}


def known_prompts() -> list[str]:
    """Names of the prompts that come along."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_prompt(source: str) -> Prompt:
    """The prompt called `source`, or that of the file at this path (.toml).

    Raises: ConfigError for an unknown name, a file that is no prompt, or a field that no clip has.
    """
    path = Path(source) if source.endswith(".toml") else _FOLDER / f"{source}.toml"
    if not source.endswith(".toml") and source not in known_prompts():
        raise ConfigError(
            f"there is no prompt '{source}'{nearest(source, known_prompts())}. One of your own is given by its path."
        )
    document = read_toml(path)
    read = build(_File, document.values, document)
    system, user = " ".join(read.system.split()), " ".join(read.user.split())
    if not user:
        raise ConfigError(f"{document.where('user')}: 'user' is empty; ask the model for something")
    for key, text in (("system", system), ("user", user)):
        check_template(text, FIELDS, f"{document.where(key)}: {key}")
    return Prompt(name=path.stem, version=read.version, system=system, user=user)
