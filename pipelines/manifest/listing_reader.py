"""A listing's file as records: one dictionary per data line, with its line number. Reads csv, tsv, jsonl and parquet.

Records are read lazily, in the file's order; what cannot be read is noted among the problems and left out.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest.diagnostics import Problems, quoted
from pipelines.manifest.listing_schema import SUFFIXES, Format, Listing
from pipelines.manifest.patterns import Pattern
from pipelines.sources.parquet_pages import PageSizes
from pipelines.sources.parquet_text import TextTooLargeError, text_batches
from uniform.config import nearest
from uniform.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Record:
    """One data line. Values are text, but for jsonl and parquet, which also have numbers, lists and null."""

    line: int
    """Physical line where it begins, from 1; the row's number in a parquet file."""
    values: Mapping[str, Any]
    identity: str | None = None
    """A text that records of the same bytes share, where that is found out; None where the name decides."""


def read_records(path: Path, listing: Listing, problems: Problems) -> Iterator[Record]:
    """The records of the listing at `path`, written in the form `listing`.

    Raises: ManifestError where the file as a whole cannot be read.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: this listing is missing. Check the path, or give the file by --listing FILE.")
    form = format_of(path, listing)
    if form == "parquet":
        yield from _parquet_records(path, listing, problems)
        return
    text = _decoded(path, listing.encoding)
    if form == "jsonl":
        yield from _json_records(path, text, listing, problems)
    else:
        yield from _separated_records(path, text, form, listing, problems)


def format_of(path: Path, listing: Listing) -> Format:
    """The format that the manifest states, or that the file's suffix does. Raises ManifestError for another suffix."""
    if listing.format is not None:
        return listing.format
    if path.suffix.lower() not in SUFFIXES:
        raise ManifestError(
            f"{path}: the suffix {path.suffix!r} is none of a listing. Set listing.format to csv, tsv, jsonl or "
            f"parquet{nearest(path.suffix, SUFFIXES)}"
        )
    return SUFFIXES[path.suffix.lower()]


def begins_like(path: Path, listing: Listing) -> bool:
    """Whether the file's text begins as `listing.starts_with` says; true where it says nothing."""
    if listing.starts_with is None:
        return True
    with path.open("rb") as file:
        head = file.read(4_096).decode("utf-8-sig", errors="replace")
    return Pattern(listing.starts_with).begins(head)


def _decoded(path: Path, encoding: str) -> str:
    """The file's text without a byte order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") and encoding.replace("_", "-").lower() in ("utf-8", "utf8"):
        raise ManifestError(f'{path}:1: the file is UTF-16, not UTF-8. Save it as UTF-8, or set encoding = "utf-16".')
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
        text.isascii() or text.encode()  # some encodings give half surrogate pairs
        return text
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = content.count(b"\n", 0, at) + 1
        raise ManifestError(
            f"{path}:{line}: byte {content[at : at + 1]!r} at offset {at:,} is not {encoding}. Save the file as "
            f'UTF-8, or set listing.encoding to what it is, for instance "cp1252" or "latin-1".'
        ) from error


def _json_records(path: Path, text: str, listing: Listing, problems: Problems) -> Iterator[Record]:
    """Records of JSON lines. A key may be missing on some lines (the field is empty there), but not on all of them."""
    wanted = listing.wanted_columns()
    seen: dict[str, None] = {}
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip() or (listing.comment and line.startswith(listing.comment)):
            continue
        try:
            # A float keeps its digits: 1.005 s is 1,005 ms.
            values = json.loads(line, parse_float=str, parse_constant=_no_constant)
            if "\\u" in line:
                json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            problems.bad_line(f"{path}:{number}", None, quoted(line), "one JSON object", f"{error}.")
            continue
        if not isinstance(values, dict):
            problems.bad_line(f"{path}:{number}", None, quoted(line), "one JSON object", "Write {...} on each line.")
            continue
        seen.update(dict.fromkeys(values))
        yield Record(number, {**dict.fromkeys(wanted), **values})
    for name, key in wanted.items():
        if seen and name not in seen:
            fix = f"Change listing.{key}{nearest(name, seen)}"
            problems.error(str(path), name, "no line with this key", f"'{name}', asked for by {key}", fix)


def _parquet_records(path: Path, listing: Listing, problems: Problems) -> Iterator[Record]:
    try:
        names = pq.read_schema(path).names
        pages = PageSizes(path)
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise ManifestError(f"{path}: not a Parquet file ({error}). Check that it was copied whole.") from error
    if not _columns_present(f"{path}", names, listing, problems):
        return
    number = 0
    try:
        for batch in text_batches(path, list(listing.wanted_columns()), pages):
            for values in batch.to_pylist():
                number += 1
                yield Record(number, values)
    except TextTooLargeError as error:
        raise ManifestError(f"{path}: {error}. Write it again with shorter cells.") from error
    except (pa.ArrowException, OSError, ValueError, EOFError, ArithmeticError) as error:
        raise ManifestError(f"{path}: row {number + 1} cannot be read ({error}). Copy the file again.") from error


class _Lines:
    """A text's lines for the csv reader: skips comments and blank lines, but only where a record may begin."""

    def __init__(self, text: str, comment: str | None) -> None:
        self._lines = _lines(text)
        self._comment = comment
        self.number = 0
        self.begin = 0
        """Line where the present record begins; 0 means that the next line begins one."""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if self.begin == 0:
                if line.isspace() or (self._comment and line.startswith(self._comment)):
                    continue
                self.begin = self.number
            yield line


def _lines(text: str) -> Iterator[str]:
    """Lines that end with LF, CRLF or a lone CR, and with nothing else (`str.splitlines` knows eight more)."""
    return iter(io.StringIO(text, newline=None))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _separated_records(path: Path, text: str, form: Format, listing: Listing, problems: Problems) -> Iterator[Record]:
    quote = listing.quote if listing.quote is not None else ('"' if form == "csv" else "")
    lines = _Lines(text, listing.comment)
    reader = csv.reader(
        iter(lines),
        delimiter=listing.delimiter or ("," if form == "csv" else "\t"),
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        skipinitialspace=True,  # AudioSet writes comma, space, quoted list: three lines in four split wrongly without
        strict=True,
    )
    fields: list[str] | None = None
    if not listing.header:
        fields = list(listing.fields)
        if not _columns_present(f"{path}", fields, listing, problems):
            return
    while True:
        lines.begin = 0
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            fix = "Look for a quote that is not closed or not doubled on this line or below."
            problems.bad_line(f"{path}:{lines.begin}", None, f"a line that does not parse ({error})", "cells", fix)
            continue
        if fields is None:
            fields = [cell.strip() for cell in cells]
            if not _columns_present(f"{path}:{lines.begin}", fields, listing, problems):
                return
        elif len(cells) == len(fields):
            yield Record(lines.begin, dict(zip(fields, cells, strict=True)))
        else:
            _wrong_width(f"{path}:{lines.begin}", cells, fields, problems)


def _columns_present(place: str, names: list[str], listing: Listing, problems: Problems) -> bool:
    """Whether every column that the map asks for is there, once; notes those that are not."""
    good = True
    for name, key in listing.wanted_columns().items():
        if names.count(name) != 1:
            found = "no such column" if name not in names else f"{names.count(name)} columns of this name"
            fix = f"Change listing.{key} or the header{nearest(name, names)}"
            problems.error(place, name, found, f"one column '{name}', asked for by {key}", fix)
            good = False
    return good


def _wrong_width(place: str, cells: list[str], fields: list[str], problems: Problems) -> None:
    more = len(cells) > len(fields)
    fix = "Put quotes round a cell that holds the delimiter." if more else "Add the missing cells."
    wanted = f"{len(fields)} ({', '.join(fields)})"
    problems.bad_line(place, None, f"{len(cells)} cells: {quoted(' | '.join(cells))}", wanted, fix)
