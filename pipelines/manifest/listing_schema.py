"""How a listing is written and what its columns mean: the `[listing]` and `[[variant]]` tables of a manifest."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Literal

from pipelines.manifest.patterns import check_expression
from uniform.errors import ConfigError

Kind = Literal["local", "http", "youtube", "hf", "archive", "fsspec"]
Format = Literal["csv", "tsv", "jsonl", "parquet"]
SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
LONGEST_S = 360_000
"""100 hours: a larger number is milliseconds or frames under the name of seconds."""
ESCAPES = ("unicode_escape", "raw_unicode_escape", "utf_7", "utf7", "idna", "punycode", "undefined")
"""Encodings that give half surrogate pairs, or no text."""
GLOB_FIELDS = ("path", "stem", "folder", "suffix", "sidecar")
"""What a found file offers to the column map; `sidecar` is the text of `<stem>.txt` beside it."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where each field of a row comes from: a column's name, or a template such as "https://host/{id}.mp4"."""

    source_id: str | None = None
    source_uri: str | None = None
    source_kind: str | None = None
    start_s: str | None = None
    start_ms: str | None = None
    end_s: str | None = None
    end_ms: str | None = None
    duration_s: str | None = None
    duration_ms: str | None = None
    split: str | None = None
    labels: str | None = None
    caption: str | None = None
    expected_digest: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        for group in (("start_s", "start_ms"), ("end_s", "end_ms", "duration_s", "duration_ms")):
            named = [name for name in group if getattr(self, name) is not None]
            if len(named) > 1:
                raise ConfigError(f"columns name both {named[0]} and {named[1]}; keep one")

    def given(self) -> dict[str, str]:
        """The fields that are mapped."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """A table that turns the listing's label codes into words, for instance AudioSet's machine ids."""

    file: str
    """CSV or TSV, relative to the manifest."""
    code: int = 0
    """Number of the column that holds the code, from 0."""
    name: int = 1
    """Number of the column that holds the words, from 0."""
    header: bool = True

    def __post_init__(self) -> None:
        if self.code < 0 or self.name < 0:
            raise ConfigError("listing.label_names.code and .name are numbers of columns, from 0")
        if not self.file or "\0" in self.file:
            raise ConfigError(f"listing.label_names.file is {self.file!r}; it must be the path of a table")


@dataclass(frozen=True, kw_only=True)
class Events:
    """Columns of a listing with one line per sound event; the lines of a clip become one row, events in `extra`."""

    start_s: str
    end_s: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One form of a listing. A manifest has one `[listing]` and any number of `[[variant]]` tables of other forms."""

    name: str = "listing"
    """What this form is called when it is recognised."""
    file: str | None = None
    """Path relative to the manifest; None where the user gives it by `--listing`."""
    glob: tuple[str, ...] = ()
    """Patterns below the manifest's root, instead of a file: each match is a clip. For archives: "*.zip#*.mp4"."""
    format: Format | None = None
    """None takes it from the file's suffix."""
    encoding: str = "utf-8"
    delimiter: str | None = None
    """One character; None is a comma, or a tab for tsv."""
    quote: str | None = None
    """One character, or "" for no quoting; None is '"', or no quoting for tsv."""
    comment: str | None = None
    """Lines that begin with this are skipped."""
    header: bool = True
    """False where the first line is data; then `fields` names the columns."""
    fields: tuple[str, ...] = ()
    starts_with: str | None = None
    """Regular expression that the file's text must begin with, to distinguish schemas that otherwise read alike."""
    derive: Mapping[str, str] = field(default_factory=dict)
    """Column name -> regular expression for the whole cell; each named group becomes a column."""
    columns: Columns = field(default_factory=Columns)
    extra: Mapping[str, str] = field(default_factory=dict)
    """Key in the row's `extra` -> column or template."""
    events: Events | None = None
    split: str = "train"
    """Split of rows whose listing has no split column."""
    split_names: Mapping[str, str] = field(default_factory=dict)
    """The listing's words for splits -> ours; empty keeps its words."""
    start_s: float = 0.0
    """Start of clips whose listing has no start column."""
    duration_s: float = 4.0
    """Length of clips whose listing has none. Ours: the paper trains on 4 s (4.1)."""
    label_separator: str | None = None
    """Splits a cell into labels; None keeps it whole (VGGSound's labels hold commas)."""
    label_names: LabelNames | None = None
    on_duplicate: Literal["error", "first", "merge"] = "error"
    """Two lines with one source and span: error, keep the first, or merge their labels and events."""
    on_leak: Literal["error", "warn", "drop_train"] = "error"
    """One source with overlapping spans in two splits; the last leaves out the clip of split "train"."""
    on_problem: Literal["error", "drop"] = "error"
    """A line, found file or archive that cannot be used: an error, or left out with a warning and a count."""
    leave_out: tuple[str, ...] = ()
    """Cells of the source's column (its id, or its address) whose lines are known faults of the published file."""
    rows: int | None = None
    """Data lines that the published file holds; checked."""
    clips: int | None = None
    """Clips that result, where lines are merged or left out; checked."""

    def __post_init__(self) -> None:
        if self.file is not None and self.glob:
            raise ConfigError("listing has both 'file' and 'glob'; keep one")
        if self.file is not None and (not self.file or "\0" in self.file):
            raise ConfigError(f"listing.file is {self.file!r}; it must be the path of a listing")
        for key in ("delimiter", "quote"):
            value = getattr(self, key)
            if value is not None and len(value) != 1 and not (key == "quote" and value == ""):
                raise ConfigError(f"listing.{key} is {value!r}; it must be one character")
            if value is not None and value in ("\0", "\n", "\r"):
                raise ConfigError(f"listing.{key} is {value!r}; it must be a character inside a line")
        if not self.header and not self.fields and not self.glob:
            raise ConfigError("listing.header is false; listing.fields must then name the columns")
        if not (0 <= self.start_s <= LONGEST_S and 0.0005 < self.duration_s <= LONGEST_S):
            found = f"listing.start_s is {self.start_s:g}, listing.duration_s {self.duration_s:g}"
            raise ConfigError(f"{found}; they must be 0 or more, and more than 0, up to {LONGEST_S:,} s")
        self._check_encoding()
        self._check_patterns()

    def _check_encoding(self) -> None:
        try:
            "a".encode(self.encoding)  # raises LookupError for codecs from bytes to bytes too, such as zlib
        except (LookupError, ValueError) as error:
            found = f"listing.encoding is {self.encoding[:40]!r}"
            raise ConfigError(f"{found}, which is no text encoding of Python; try utf-8") from error
        if self.encoding.lower().replace("-", "_") in ESCAPES:
            raise ConfigError(f"listing.encoding {self.encoding!r} is for program text; try utf-8")

    def _check_patterns(self) -> None:
        for pattern in self.glob:
            parts = PurePosixPath(pattern).parts
            if not parts or any("**" in part and part != "**" for part in parts) or "\0" in pattern:
                raise ConfigError(
                    f"listing.glob {pattern!r} is no pattern of files; ** stands for whole folders: **/*.mp4"
                )
            if PurePosixPath(pattern).is_absolute() or ".." in parts:
                raise ConfigError(f"listing.glob {pattern!r} leaves the dataset's root; give a pattern below it")
        for column, expression in (*self.derive.items(), ("starts_with", self.starts_with or "")):
            try:
                groups = check_expression(expression)
            except ConfigError as error:
                raise ConfigError(f"listing.derive.{column}: {error}") from error
            if column in self.derive and not groups:
                raise ConfigError(f"listing.derive.{column} has no named group; write (?P<name>...)")
        for value in (*self.columns.given().values(), *self.extra.values()):
            template_columns(value)

    def wanted_columns(self) -> dict[str, str]:
        """Column that the listing itself must have -> key of the manifest that asks for it."""
        sources = {**{f"columns.{k}": v for k, v in self.columns.given().items()}}
        sources.update({f"extra.{key}": value for key, value in self.extra.items()})
        if self.events is not None:
            sources.update({f"events.{f.name}": getattr(self.events, f.name) for f in fields(self.events)})
        derived = {name for pattern in self.derive.values() for name in re.compile(pattern).groupindex}
        wanted = dict.fromkeys(self.derive, "derive")
        for key, value in sources.items():
            wanted.update({name: key for name in template_columns(value) if name not in derived})
        return wanted


def template_columns(value: str) -> tuple[str, ...]:
    """Columns that a map's value takes: itself, or the names in its braces. Raises ConfigError for other syntax."""
    if "{" not in value and "}" not in value:
        return (value,)
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError as error:
        raise ConfigError(f"template {value!r}: {error}; write a column's name in braces") from error
    names = []
    for _, name, layout, conversion in parts:
        if name is None:
            continue
        if layout or conversion or not re.fullmatch(r"[^\W\d][\w -]*", name):
            raise ConfigError(f"template {value!r}: '{{{name}}}' is not plain; write only a column's name in braces")
        names.append(name)
    return tuple(names)
