"""JSON that comes from outside: answers of servers and child processes, listings, prompts, configs of models.

Bytes, nesting, items and numbers are bounded: a document is a value or a ValueError.
Numbers are finite, and texts hold no lone surrogates.
"""

import json
import math
import re
from typing import Any

from uniform.clean_text import without_surrogates

MAX_DEPTH = 64
"""Levels of nested arrays and objects; documents of this kind have fewer than ten."""
MAX_DIGITS = 400
"""Characters of one number."""
MAX_ITEMS = 1_000_000
"""Values of a document."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(rb"[-+.0-9eE]{%d,}" % (MAX_DIGITS + 1))


def read_untrusted_json(content: bytes | str, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON document.

    Args:
        content: the document; bytes are UTF-8, with or without a byte order mark.
        max_bytes: longest document.
        max_depth: levels of nested arrays and objects.
    Returns: plain values; a key that stands twice has its last value; lone surrogates are replaced by U+FFFD.
    Raises: ValueError that says what is wrong: not UTF-8, not JSON, too long, too deep, too many values, a number that
        is not finite or has too many digits.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(raw) > max_bytes:
        raise ValueError(f"{len(raw):,} bytes of JSON; at most {max_bytes:,} are read")
    bare = _STRINGS.sub(b'""', raw)
    _check_depth(bare, max_depth)
    if bare.count(b",") + bare.count(b":") >= MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS:,} values in one JSON document")
    if _NUMBER.search(bare):
        raise ValueError(f"a number of more than {MAX_DIGITS} characters")
    try:
        text = raw.decode("utf-8-sig", "surrogatepass")
        return _clean(json.loads(text, parse_constant=_refuse_constant, parse_float=_finite))
    except RecursionError as error:
        raise ValueError(f"nested more than {max_depth} levels deep") from error


def _check_depth(bare: bytes, max_depth: int) -> None:
    depth = 0
    for match in re.finditer(rb"[\[\]{}]", bare):
        depth += 1 if match[0] in b"[{" else -1
        if depth > max_depth:
            raise ValueError(f"nested more than {max_depth} levels deep")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is larger than a number can be")
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): _clean(item) for key, item in value.items()}
    return value
