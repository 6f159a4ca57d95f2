"""A run's configuration: a preset, a TOML file on top of it, `key=value` on top of both; and what that changes."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from uniform.config import Document, build, nearest, read_toml
from uniform.errors import ConfigError
from uniform.training.settings.config import TrainConfig

PRESET_KEY = "preset"
"""The key of a configuration file that names the preset it stands on."""


def preset_names() -> list[str]:
    """Names of the presets that come with the toolkit."""
    folder = resources.files("uniform") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_config(
    what: str, overrides: Sequence[str] = (), values_by_key: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration called `what`, with overrides.

    Args:
        what: a preset's name or the path of a TOML file; the file may name a preset that it changes.
        overrides: `key=value`, the key dotted, the value as in TOML (a bare word is text).
        values_by_key: values by dotted key, set after the overrides.
    Raises: ConfigError that names file, line and key, and the nearest known key or preset.
    """
    document = _document(what)
    values = _on_preset(document)
    for text in overrides:
        key, value = _override(text)
        _set(values, key.split("."), value, text)
    for key, value in (values_by_key or {}).items():
        _set(values, key.split("."), value, key)
    if overrides or values_by_key:
        document = Document(Path(" ".join([str(document.path), *overrides])), document.text, values)
    return build(TrainConfig, values, document)


def base_of(what: str) -> str:
    """The preset that the configuration `what` stands on, or "the defaults"."""
    if what in preset_names():
        return f"preset '{what}'"
    name = _document(what).values.get(PRESET_KEY)
    return f"preset '{name}'" if name else "the defaults"


def differences(what: str, config: TrainConfig) -> list[tuple[str, str, str]]:
    """What `config` changes against its preset (or the defaults): (key, preset's value, own value).

    A key that one of them does not have is "-" there; keys that are there, but empty, in one only are left out.
    """
    name = what if what in preset_names() else _document(what).values.get(PRESET_KEY)
    base = load_config(name) if name else TrainConfig()
    before, after = flatten(base), flatten(config)
    keys = sorted(before.keys() | after.keys())
    pairs = [(key, before.get(key, ()), after.get(key, ())) for key in keys]
    return [
        (key, str(old if key in before else "-"), str(new if key in after else "-"))
        for key, old, new in pairs
        if old != new and not (old in (None, ()) and new in (None, ()))
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dataclass or table as dotted keys; lists of tables are numbered."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, tuple | list) and any(isinstance(item, Mapping) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
        return flat
    return {prefix: value}


def as_json(config: TrainConfig) -> dict[str, Any]:
    """The whole configuration, JSON-ready."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def from_json(values: Mapping[str, Any], path: Path) -> TrainConfig:
    """The inverse of `as_json`. Raises: ConfigError where a checkpoint holds keys that this toolkit does not know."""
    return build(TrainConfig, _without_none(dict(values)), Document(path, "", values))


def _document(what: str) -> Document:
    if what in preset_names():
        return read_toml(Path(str(resources.files("uniform") / "presets" / f"{what}.toml")))
    if not what.endswith(".toml") and not Path(what).exists():
        raise ConfigError(f"there is no preset '{what}' and no such file{nearest(what, preset_names())}")
    return read_toml(Path(what))


def _on_preset(document: Document) -> dict[str, Any]:
    values = dict(document.values)
    name = values.pop(PRESET_KEY, None)
    if name is None:
        return values
    if name not in preset_names():
        raise ConfigError(f"{document.where(PRESET_KEY)}: there is no preset '{name}'{nearest(name, preset_names())}")
    return _merge(_on_preset(_document(name)), values)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; lists and values of `above` replace those below."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"'{text}' is not key=value; for instance optimiser.learning_rate=2e-4")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value  # a bare word: a path or a name


def _set(values: dict[str, Any], parts: list[str], value: Any, text: str) -> None:
    for part in parts[:-1]:
        inner = values.get(part, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"'{text}': '{part}' is {inner!r}, not a table")
        values[part] = dict(inner)
        values = values[part]
    values[parts[-1]] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _without_none(value: Any) -> Any:
    """JSON's null is TOML's absent key."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
