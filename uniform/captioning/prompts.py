"""Prompts: named, versioned text files; a user can give the path of another one.

    version = 1
    system = "Who the model is and how it writes."              # can be empty
    user = "Describe the video. It was filed under: {labels}."  # can name {label}, {labels}, {dataset}

The text is part of a caption set's fingerprint, the name is not: a copy under another name makes the same captions.
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
    """System and user text, with fields for the labels of a clip."""

    name: str
    version: int
    system: str
    user: str

    @property
    def names_labels(self) -> bool:
        """Whether the prompt names labels, so that it differs between clips."""
        return bool(check_template(self.system, FIELDS, "system") | check_template(self.user, FIELDS, "user"))

    def filled(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """System and user text with the values of the fields."""
        return self.system.format_map(fields), self.user.format_map(fields)

    def provenance(self) -> dict[str, Any]:
        """The text, for fingerprints."""
        return {"system": self.system, "user": self.user}


def known_prompts() -> list[str]:
    """Names of the built-in prompts."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_prompt(source: str) -> Prompt:
    """Read the built-in prompt called `source`, or the file at this path (.toml).

    Raises: ConfigError for an unknown name, a file that is not a prompt, or an unknown field.
    """
    path = Path(source) if source.endswith(".toml") else _FOLDER / f"{source}.toml"
    if not source.endswith(".toml") and source not in known_prompts():
        raise ConfigError(f"there is no prompt '{source}'{nearest(source, known_prompts())}. For your own give a path.")
    document = read_toml(path)
    read = build(_File, document.values, document)
    system, user = " ".join(read.system.split()), " ".join(read.user.split())
    if not user:
        raise ConfigError(f"{document.where('user')}: 'user' is empty; write what the model is to do")
    for key, text in (("system", system), ("user", user)):
        check_template(text, FIELDS, f"{document.where(key)}: {key}")
    return Prompt(name=path.stem, version=read.version, system=system, user=user)
