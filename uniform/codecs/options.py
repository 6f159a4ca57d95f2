"""Parse options of codecs from the command line: `video.weights=FOLDER`."""

import tomllib
from collections.abc import Sequence
from typing import Any

from uniform.config import nearest
from uniform.errors import InputError

KINDS = ("video", "audio", "text")


def parse_options(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by kind of codec.

    Args:
        items: `KIND.OPTION=VALUE`; numbers and truth values are parsed as in TOML, all other values are text.
    Raises: InputError for an item of another form or an unknown kind.
    """
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for item in items:
        key, equals, value = item.partition("=")
        kind, dot, option = key.partition(".")
        if not (equals and dot and option and value):
            raise InputError(f"--codec {item}: wanted KIND.OPTION=VALUE, for instance video.weights=FOLDER")
        if kind not in found:
            raise InputError(f"--codec {item}: there is no codec for '{kind}'{nearest(kind, found)}")
        found[kind][option] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, int | float) else text
