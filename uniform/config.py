"""TOML files into frozen dataclasses, strictly: an unknown key or a wrong type is an error that says the line.

Manifests, recipes and presets all pass through `read_toml` and `build`. Types understood: str, int, float, bool,
Path, StrEnum, Literal, `X | None`, tuple[X, ...], dict[str, X] and nested dataclasses.
"""

import dataclasses
import difflib
import enum
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from uniform.errors import ConfigError
from uniform.renamed import KEYS, current, warn_renamed

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Document:
    """A parsed TOML file that still knows its text, so that an error can name a line."""

    path: Path
    text: str
    values: Mapping[str, Any]

    def where(self, key: str) -> str:
        """`file:line` of the first place that sets the last part of the dotted `key`, or just the file."""
        last = re.escape(key.rsplit(".", 1)[-1].split("[")[0])
        pattern = re.compile(rf"""^\s*(?:\[+\s*(?:[\w."'-]+\.)?)?["']?{last}["']?\s*(?:=|\.|\])""")
        for number, line in enumerate(self.text.splitlines(), start=1):
            if pattern.match(line):
                return f"{self.path}:{number}"
        return str(self.path)


def read_toml(path: Path) -> Document:
    """Read a TOML file (UTF-8, with or without a byte order mark).

    Raises: ConfigError where the file is missing, not UTF-8 or not TOML.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    try:
        return Document(path, text, tomllib.loads(text))
    except RecursionError as error:
        raise ConfigError(f"{path}: not valid TOML: nested too deep") from error
    except ValueError as error:  # TOMLDecodeError, and integers of more digits than Python reads
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def build(cls: type[T], values: Mapping[str, Any], document: Document, prefix: str = "") -> T:
    """An instance of the dataclass `cls` from a TOML table.

    Args:
        cls: dataclass; fields without a default must stand in `values`.
        values: the table, usually `document.values` or one of its sections.
        document: where the table comes from, for errors.
        prefix: dotted path of the table inside the document, for errors.
    Raises: ConfigError that names file, line, key, what was found and what was wanted.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    values = {_renamed(key, fields): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"{document.where(_join(prefix, key))}: unknown key '{_join(prefix, key)}'{nearest(key, fields)}"
            )
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = convert(hints[name], values[name], document, _join(prefix, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{document.path}: '{_join(prefix, name)}' is missing; it must be set")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{document.path}: {error}") from error


def _renamed(key: str, fields: Mapping[str, Any]) -> str:
    """The present name of a key, where `fields` has it under another name since 0.3.0."""
    new = current(key, KEYS)
    if key in fields or new not in fields:
        return key
    warn_renamed(key, new)
    return new


def convert(wanted: Any, value: Any, document: Document, key: str) -> Any:
    """`value`, as TOML gave it, as the annotated type `wanted`. Raises ConfigError where it does not fit."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:  # TOML has no such value; a checkpoint's JSON has
            return None
        inner = [option for option in arguments if option is not type(None)]
        if len(inner) == 1:
            return convert(inner[0], value, document, key)
        return _first_that_fits(inner, value, document, key)
    if origin is typing.Literal:
        return value if value in arguments else _fail(document, key, value, _one_of(str(value), arguments))
    if origin is tuple and isinstance(value, list):
        return tuple(convert(arguments[0], item, document, f"{key}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return {name: convert(arguments[1], item, document, _join(key, name)) for name, item in value.items()}
        return _fail(document, key, value, "a table")
    if dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        return build(typing.cast(type, wanted), value, document, key)
    return _convert_plain(wanted, value, document, key)


def _convert_plain(wanted: Any, value: Any, document: Document, key: str) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, enum.StrEnum):
        choices = [member.value for member in wanted]
        return wanted(value) if value in choices else _fail(document, key, value, _one_of(str(value), choices))
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    return _fail(document, key, value, _type_name(wanted))


def _first_that_fits(options: Iterable[Any], value: Any, document: Document, key: str) -> Any:
    complaints = []
    for option in options:
        try:
            return convert(option, value, document, key)
        except ConfigError as error:
            complaints.append(error)
    raise complaints[-1]


def _fail(document: Document, key: str, value: Any, wanted: str) -> typing.NoReturn:
    raise ConfigError(f"{document.where(key)}: '{key}' is {value!r}; wanted {wanted}")


def _type_name(wanted: Any) -> str:
    names = {
        str: "text in quotes",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
    }
    if wanted in names:
        return names[wanted]
    return "a list" if typing.get_origin(wanted) is tuple else "a table"


def _one_of(value: str, choices: Iterable[Any]) -> str:
    known = [str(choice) for choice in choices]
    return f"one of {', '.join(known)}{nearest(value, known)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where one of `known` is close to `word`; otherwise the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
