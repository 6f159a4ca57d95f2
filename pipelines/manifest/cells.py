"""Checks of single cells: times, paths and addresses as people write them."""

import functools
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pipelines.manifest.diagnostics import quoted

CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
"""Control characters, and what Python makes of a file name that is not UTF-8."""
SECONDS = re.compile(r"([0-9]{1,12})(?:\.([0-9]{0,30}))?")
SMALL = re.compile(r"-0(?:\.0{0,30})?|\.[0-9]{1,30}|[0-9](?:\.[0-9]{1,30})?[eE]-[0-9]{1,3}")
"""Other ways in which programs print small numbers: -0.0, .5 and 1e-05."""
CLOCK = re.compile(r"(?:([0-9]{1,3}):)?([0-5]?[0-9]):([0-5][0-9](?:\.[0-9]{1,30})?)")
WANTED_SECONDS = "seconds such as 30, 30.5 or 0:30"


class CellError(Exception):
    """One cell is wrong; caught by `pipelines.manifest.rows` and noted among the problems."""

    def __init__(self, column: str, found: str, wanted: str, fix: str = "") -> None:
        super().__init__(column, found, wanted, fix)
        self.column, self.found, self.wanted, self.fix = column, found, wanted, fix


@functools.lru_cache(maxsize=1 << 16)  # starts repeat: one of AudioSet in ten is 30.000
def milliseconds(text: str, unit_ms: int, column: str) -> int:
    """A time as the listing writes it, in milliseconds: exact for three decimals, rounded half to even beyond.

    Args:
        text: a decimal number, or h:mm:ss where the unit is a second.
        unit_ms: milliseconds in the column's unit.
        column: for the error.
    Raises: CellError where it is no time of 0 or more.
    """
    match = SECONDS.fullmatch(text)
    if match:
        if not match[2] or not match[2].strip("0"):
            return int(match[1]) * unit_ms
        return int((Decimal(text) * unit_ms).to_integral_value(ROUND_HALF_EVEN))
    if SMALL.fullmatch(text):
        return int((abs(Decimal(text)) * unit_ms).to_integral_value(ROUND_HALF_EVEN))
    clock = CLOCK.fullmatch(text)
    if clock and unit_ms == 1000:
        seconds = Decimal(clock[1] or 0) * 3600 + Decimal(clock[2]) * 60 + Decimal(clock[3])
        return int((seconds * 1000).to_integral_value(ROUND_HALF_EVEN))
    fix = "Use a point for the decimals." if re.fullmatch(r"\d+,\d+", text) else "Correct the cell."
    if text.startswith("-"):
        fix = "A clip cannot begin before its source: use 0."
    wanted = WANTED_SECONDS if unit_ms == 1000 else "whole milliseconds such as 30000"
    raise CellError(column, quoted(text), wanted, fix)


def check_inside(path: str, column: str) -> None:
    """Raises CellError where a local path is absolute or climbs out of the dataset's root."""
    pure = PurePosixPath(path)
    if CONTROL.search(path):
        raise CellError(column, quoted(path), "a path without control characters", "Rename the file.")
    if "\\" in path:
        fix = f"Write {path.replace(chr(92), '/')!r}."
        raise CellError(column, quoted(path), "forward slashes", fix)
    if pure.is_absolute() or re.match(r"[A-Za-z]:/", path) or path.startswith("~"):
        raise CellError(column, quoted(path), "a path below the manifest's root", "Set root, and make it relative.")
    if ".." in pure.parts or not pure.parts:
        raise CellError(column, quoted(path), "a path below the manifest's root", "Set root to the folder above it.")


SCHEMES: Mapping[str, tuple[str, ...]] = {
    "http": ("http", "https"),
    "youtube": ("http", "https"),
    "hf": ("hf",),
    "fsspec": ("s3", "gs", "gcs", "az", "abfs", "r2", "memory"),
}


def check_address(uri: str, kind: str, column: str) -> None:
    """Raises CellError for an address of another scheme than its kind has, without a host, or with a password."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        raise CellError(column, quoted(uri), "an address", "Correct the cell.") from None
    if parts.scheme.lower() not in SCHEMES[kind]:
        wanted = f"an address that begins with {' or '.join(f'{scheme}://' for scheme in SCHEMES[kind])}"
        fix = 'Files on disk are kind "local".' if parts.scheme in ("", "file") else "Correct the cell."
        raise CellError(column, quoted(uri), wanted, fix)
    if not host or " " in uri:
        raise CellError(column, quoted(uri), "an address with a host and no spaces", "Correct the cell.")
    if parts.username or parts.password:
        fix = "Secrets stay out of manifests: give them by the fetch stage's options."
        raise CellError(column, "an address that holds a user or password", "an address without", fix)
