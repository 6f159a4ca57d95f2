"""Converts cells of listings, and texts beside clips, to text: one rule per type, everything else is a problem.

| cell | text |
| --- | --- |
| text | as it stands, in NFC, without spaces around it and without control characters |
| bytes | UTF-8; UTF-16 or UTF-32 with a byte order mark |
| null, NaN, and the texts that pandas writes for them | empty |
| whole number, decimal, date, time of day | as it is printed |
| list of texts, also as Python prints it | labels: one each; caption: the first, the others in `extra.more_captions` |
| anything else (object, boolean, nested list, fraction as an id) | a problem with row, type and remedy |
"""

import codecs
import datetime
import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipelines.manifest.cells import CellError
from pipelines.manifest.diagnostics import quoted

CELL_CHARACTERS = 65_536
"""Longest cell of a listing. The longest of the published ones has 1,000."""
LIST_ITEMS = 10_000
MISSING = frozenset(("nan", "NaN", "None", "<NA>", "NaT"))
"""What pandas and Python write for a missing value."""
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Terminal escapes and control characters, except tab and ends of lines."""
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PRINTED_LIST = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*|\s+|(?=\])))*\]", re.DOTALL)
_PRINTED_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_PRINTED_OTHER = re.compile(r"""b'.*'|b".*"|\{\s*['"][^'"]*['"]\s*:.*\}|\[\s*(?:b['"]|[\[{]).*\]""", re.DOTALL)
_NAMES = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    bytes: "bytes",
}


def text_of(value: Any, column: str) -> str:
    """A cell as text; empty for null and NaN. Raises CellError for a type that has no text."""
    if not isinstance(value, str):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        value = _converted(value, column)
    return "" if value in MISSING else check_text(value, column)


def caption_texts(value: Any, column: str) -> list[str]:
    """The captions in one cell, without empty ones. Raises CellError, also for a number."""
    if isinstance(value, int | float | Decimal) and not _is_nan(value):
        raise _wrong_type(value, column, "a caption in words", "Map listing.columns.caption to the column of texts.")
    return [text for part in list_parts(value, column) if (text := cleaned(text_of(part, column)))]


def list_parts(value: Any, column: str) -> list[Any]:
    """The items of a cell that holds a list, or that prints one; otherwise the cell itself. Raises CellError."""
    if isinstance(value, str):
        return printed_list(value, column)
    if isinstance(value, bytes):
        return printed_list(text_of(value, column), column)
    if not isinstance(value, list):
        return [value]
    if len(value) > LIST_ITEMS:
        raise CellError(column, f"a list of {len(value):,} items", f"at most {LIST_ITEMS:,}", "Shorten the list.")
    return value


def printed_list(text: str, column: str) -> list[Any]:
    """The items of a list that pandas or numpy wrote as text, such as "['dog', 'rain']"; otherwise the text itself.

    Raises: CellError for printed bytes, objects and nested lists.
    """
    bare = text.strip()
    if not bare.startswith(("[", "{", "b'", 'b"')):
        return [text]
    check_text(bare, column)
    if _PRINTED_LIST.fullmatch(bare):
        items = (found[1] if found[1] is not None else found[2] for found in _PRINTED_ITEM.finditer(bare))
        return [re.sub(r"\\(.)", r"\1", item) for item in items]
    if _PRINTED_OTHER.fullmatch(bare):
        fix = "It is a value as Python prints it. Write the text itself, or a list of texts."
        raise CellError(column, quoted(bare), "text", fix)
    return [text]


def time_text(value: Any, column: str) -> str:
    """A cell of a start, end or duration as text that `cells.milliseconds` reads. Raises CellError."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise _wrong_type(value, column, "a time", "Correct the cell.")
    if isinstance(value, datetime.timedelta):
        return str(Decimal(value // datetime.timedelta(microseconds=1)) / 1_000_000)
    if isinstance(value, float) and math.isfinite(value):
        return format(Decimal(repr(abs(value) if value == 0 else value)), "f")
    if isinstance(value, float) and math.isinf(value):
        raise CellError(column, quoted(value), "a finite time", "Correct the cell.")
    return text_of(value, column)


def extra_text(value: Any, column: str) -> str:
    """A cell that is kept as it is: text, or JSON for numbers, lists and objects. Raises CellError."""
    if value is None or _is_nan(value):
        return ""
    if isinstance(value, str):
        return check_text(value, column)
    if isinstance(value, bytes | Decimal | datetime.date | datetime.time | datetime.timedelta):
        return _converted(value, column)
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_json_default(column))
    except (ValueError, TypeError, RecursionError) as error:
        fix = f"It cannot be written as JSON ({error}); write it as text."
        raise CellError(column, _kind(value), "a value that JSON has", fix) from error
    return check_text(text, column)


def check_text(text: str, column: str) -> str:
    """`text`, unless it is too long for a cell or holds a NUL character: then raises CellError."""
    if len(text) > CELL_CHARACTERS:
        fix = "Is a quote not closed? Keep long texts in files."
        raise CellError(column, f"more than {CELL_CHARACTERS:,} characters", "a shorter cell", fix)
    if "\0" in text:
        raise CellError(column, quoted(text), "text without NUL characters", "Save the file as UTF-8.")
    return text


def cleaned(text: str) -> str:
    """The text in NFC, without spaces around it and without control characters and terminal escapes."""
    if not text.isprintable():
        text = CONTROLS.sub("", text)
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


@dataclass(frozen=True)
class Unreadable:
    """In place of a cell: a text beside a clip that cannot be read. It is a problem of its row."""

    found: str
    wanted: str
    fix: str


def decoded(content: bytes, *, whole: bool = True) -> str:
    """The text that bytes hold: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        whole: False where the bytes are cut, perhaps inside a character.
    Raises: ValueError.
    """
    encoding = "utf-8-sig"
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "utf-32"
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(content, final=whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {encoding.removesuffix('-sig').upper()}") from error
    if "\0" in text:
        raise ValueError("it holds NUL characters, as UTF-16 without a byte order mark does")
    return text


def _converted(value: Any, column: str) -> str:
    """The text of a cell that is no text."""
    if isinstance(value, Unreadable):
        raise CellError(column, value.found, value.wanted, value.fix)
    if isinstance(value, bytes):
        try:
            return decoded(value)
        except ValueError as error:
            raise CellError(column, f"bytes {quoted(value)}", f"UTF-8 ({error})", "Write it as UTF-8.") from error
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    fix = "Write the column as text."
    if isinstance(value, list | tuple | dict):
        fix = "Write one text per cell; a field of an object needs a column of its own."
    elif isinstance(value, float):
        fix = "Write the column as text or whole numbers; pandas makes fractions of numbers with gaps."
    raise _wrong_type(value, column, "text", fix)


def _wrong_type(value: Any, column: str, wanted: str, fix: str) -> CellError:
    return CellError(column, f"{_kind(value)} {quoted(value)}", wanted, fix)


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _json_default(column: str) -> Callable[[Any], str]:
    return lambda value: _converted(value, column)
