"""Records of a listing to manifest rows, by the manifest's column map. No dataset has code here."""

import hashlib
import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.clip import Row
from pipelines.manifest.cells import CONTROL, CellError, check_address, check_inside, milliseconds
from pipelines.manifest.diagnostics import Problems, quoted
from pipelines.manifest.listing_reader import Record
from pipelines.manifest.listing_schema import LONGEST_S, Kind, Listing, template_columns
from pipelines.manifest.patterns import Pattern
from pipelines.manifest.values import caption_texts, cleaned, extra_text, list_parts, text_of, time_text
from uniform.config import nearest

LONGEST_START_MS = LONGEST_S * 1000
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
KINDS: tuple[Kind, ...] = ("local", "http", "youtube", "hf", "archive", "fsspec")

NEEDED = ("source_id", "source_uri", "source_kind")
"""Fields whose templates must have all their cells."""

Cell = Callable[[Mapping[str, Any]], Any]


def clip_id(dataset: str, source_id: str, start_ms: int, duration_ms: int) -> str:
    """16 hex digits that name a clip for good: no dot, no dash, no letter case, the same on every machine."""
    identity = f"{dataset}\0{source_id}\0{start_ms}\0{duration_ms}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


class RowMaker:
    """Turns records of one listing form into rows. Compiled once, called for each record.

    Args:
        dataset: the manifest's name.
        kind: where clips come from, unless the listing has a column for it.
        license: of the dataset, unless the listing has a column for it.
        listing: the form.
        label_names: the listing's label codes -> words; empty keeps the cell's text.
        problems: receives what is wrong.
    """

    def __init__(
        self,
        dataset: str,
        kind: Kind,
        license: str | None,  # noqa: A002  the row's field has this name
        listing: Listing,
        label_names: Mapping[str, str],
        problems: Problems,
    ) -> None:
        self._dataset, self._kind, self._license = dataset, kind, license
        self._listing, self._label_names, self._problems = listing, label_names, problems
        self._columns = listing.columns.given()
        self._cells = {key: _cell(value, needed=key in NEEDED) for key, value in self._columns.items()}
        self._extra = {key: _cell(value, needed=False) for key, value in listing.extra.items()}
        self._known_splits: dict[str, str] = {}
        self._known_labels: dict[str, tuple[str, ...]] = {}  # a listing repeats itself: each cell is read once
        self._derive = [(column, Pattern(pattern)) for column, pattern in listing.derive.items()]

    def row(self, place: str, record: Record) -> Row | None:
        """The row of `record`, or None with a problem noted at `place`."""
        try:
            if self._listing.leave_out and self._left_out(record.values):
                self._problems.warn(place, None, "a known fault of the listing", "a clip", "The line is left out.")
                return None
            return self._row(record.values)
        except CellError as error:
            self._problems.bad_line(place, error.column, error.found, error.wanted, error.fix)
            return None

    def _left_out(self, values: Mapping[str, Any]) -> bool:
        key = "source_id" if "source_id" in self._cells else "source_uri"
        values = self._derived(values) if self._derive else values
        return self._text(values, key) in self._listing.leave_out

    def _row(self, values: Mapping[str, Any]) -> Row:
        if self._derive:
            values = self._derived(values)
        kind = self._source_kind(values)
        source_id, uri = self._source(values, kind)
        start_ms, duration_ms = self._span(values)
        captions = self._captions(values)
        return Row(
            clip_id=clip_id(self._dataset, source_id, start_ms, duration_ms),
            dataset=self._dataset,
            split=self._split(values),
            source_kind=kind,
            source_id=source_id,
            source_uri=uri,
            start_ms=start_ms,
            duration_ms=duration_ms,
            labels=self._labels(values),
            caption=captions[0] if captions else None,
            caption_origin="given" if captions else None,
            expected_digest=self._digest(values),
            license=self._text(values, "license") or self._license,
            extra=self._extra_of(values, captions),
        )

    def _captions(self, values: Mapping[str, Any]) -> list[str]:
        if "caption" not in self._cells:
            return []
        return list(dict.fromkeys(caption_texts(self._cells["caption"](values), self._columns["caption"])))

    def _derived(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        more = dict(values)
        for column, pattern in self._derive:
            groups = pattern.groups(text_of(values[column], column).strip(), column)
            if groups is None:
                raise CellError(column, quoted(values[column]), f"text like {pattern.text}", "Correct the cell.")
            more.update(groups)
        return more

    def _text(self, values: Mapping[str, Any], key: str) -> str | None:
        """The cell of a mapped field as clean text, NFC; None where it is not mapped or empty."""
        cell = self._cells.get(key)
        value = None if cell is None else cell(values)
        if value is None:
            return None
        return cleaned(text_of(value, self._columns[key])) or None

    def _needed(self, values: Mapping[str, Any], key: str) -> str:
        text = self._text(values, key)
        if text is None:
            raise CellError(self._columns[key], "an empty cell", key, "Fill it in, or leave the line out.")
        if not (text.isascii() and text.isprintable()) and CONTROL.search(text):
            raise CellError(
                self._columns[key],
                quoted(text),
                f"{key} in UTF-8, without control characters",
                "Clean the cell, or rename the file.",
            )
        return text

    def _source_kind(self, values: Mapping[str, Any]) -> str:
        if "source_kind" not in self._cells:
            return self._kind
        kind = self._needed(values, "source_kind")
        if kind not in KINDS:
            raise CellError(self._columns["source_kind"], quoted(kind), "a kind", f"Correct it{nearest(kind, KINDS)}")
        return kind

    def _source(self, values: Mapping[str, Any], kind: str) -> tuple[str, str]:
        """(source id, address) of a record."""
        if kind == "youtube" and "source_uri" not in self._cells:
            source_id = self._youtube_id(values)
            return source_id, f"https://www.youtube.com/watch?v={source_id}"
        raw = self._cells["source_uri"](values)
        uri = self._needed(values, "source_uri")
        source_id = self._needed(values, "source_id") if "source_id" in self._cells else uri
        column = self._columns["source_uri"]
        if kind in ("local", "archive"):
            # The file's name stays as the listing spells it: on most disks NFC and NFD name two files.
            uri = text_of(raw, column).strip()
            check_inside(uri, column)
        else:
            check_address(uri, kind, column)
        return source_id, uri

    def _youtube_id(self, values: Mapping[str, Any]) -> str:
        source_id = self._needed(values, "source_id")
        if YOUTUBE_ID.fullmatch(source_id):
            return source_id
        fix = "Correct the id."
        if source_id.startswith("#") or "E+" in source_id:
            fix = "A spreadsheet has eaten this id (ids may begin with '-' or look like a number): export it as text."
        elif source_id.startswith(("'", "=")):
            fix = f"A spreadsheet has put {source_id[0]!r} before it: remove that."
        elif "youtu" in source_id:
            fix = "Give the 11 characters after 'v=', or split them off by listing.derive."
        raise CellError(self._columns["source_id"], quoted(source_id), "a YouTube id of 11 characters", fix)

    def _span(self, values: Mapping[str, Any]) -> tuple[int, int]:
        """(start, duration) in milliseconds."""
        start_ms = self._time(values, "start", round(self._listing.start_s * 1000))
        if start_ms > LONGEST_START_MS:
            column = self._columns.get("start_s") or self._columns.get("start_ms", "start")
            fix = "If the column counts milliseconds, map it to columns.start_ms."
            raise CellError(column, f"a start after {start_ms // 3_600_000:,} hours", "a start below 100 hours", fix)
        end_ms = self._time(values, "end", None)
        if end_ms is None:
            duration_ms = self._time(values, "duration", round(self._listing.duration_s * 1000))
            column = self._columns.get("duration_s") or self._columns.get("duration_ms", "duration")
        else:
            duration_ms = end_ms - start_ms
            column = self._columns.get("end_s") or self._columns.get("end_ms", "end")
        if duration_ms <= 0:
            found = f"a clip of {duration_ms} ms from {start_ms} ms"
            raise CellError(column, found, "an end after the start", "Are start and end the right way round?")
        return start_ms, duration_ms

    def _time(self, values: Mapping[str, Any], key: str, default: Any) -> Any:
        for field, unit_ms in ((f"{key}_s", 1000), (f"{key}_ms", 1)):
            if field in self._cells:
                return self._milliseconds(values, field, unit_ms)
        return default

    def _milliseconds(self, values: Mapping[str, Any], field: str, unit_ms: int) -> int:
        column = self._columns[field]
        text = time_text(self._cells[field](values), column).strip()
        if not text:
            raise CellError(column, "an empty cell", field, "Fill it in, or leave the line out.")
        return milliseconds(text, unit_ms, column)

    def _split(self, values: Mapping[str, Any]) -> str:
        split = self._needed(values, "split") if "split" in self._cells else self._listing.split
        if split in self._known_splits:
            return self._known_splits[split]
        names = self._listing.split_names
        if names and split not in names:
            fix = f"Add it there{nearest(split, names)}"
            raise CellError(self._columns.get("split", "split"), quoted(split), "a split in listing.split_names", fix)
        named = names.get(split, split)
        if not SPLIT.fullmatch(named):
            fix = "Map it by listing.split_names."
            raise CellError(self._columns.get("split", "split"), quoted(named), "letters, digits, _ and -", fix)
        self._known_splits[split] = named
        return named

    def _labels(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        if "labels" in self._cells:
            cell, column = self._cells["labels"](values), self._columns["labels"]
        elif self._listing.events is not None:
            column = self._listing.events.label
            cell = values[column]
        else:
            return ()
        if isinstance(cell, str):
            if cell not in self._known_labels:
                self._known_labels[cell] = self._names_of(cell, column)
            return self._known_labels[cell]
        return self._names_of(cell, column)

    def _names_of(self, cell: Any, column: str) -> tuple[str, ...]:
        """The label names in one cell, each once."""
        separator = self._listing.label_separator
        parts = list_parts(cell, column)
        if separator and len(parts) == 1 and isinstance(parts[0], str):
            parts = parts[0].split(separator)
        labels = [cleaned(text_of(part, column)) for part in parts]
        labels = [self._label_name(label, column) for label in labels if label]
        return tuple(dict.fromkeys(labels))

    def _label_name(self, label: str, column: str) -> str:
        if not self._label_names:
            return label
        if label not in self._label_names:
            fix = "Is listing.label_names the table that belongs to this listing?"
            raise CellError(column, quoted(label), "a code in the table of label names", fix)
        return self._label_names[label]

    def _digest(self, values: Mapping[str, Any]) -> str | None:
        digest = self._text(values, "expected_digest")
        if digest is None:
            return None
        digest = digest.lower().removeprefix("sha256:")
        if not DIGEST.fullmatch(digest):
            fix = "Give SHA-256, for instance from sha256sum; leave the cell empty where it is not known."
            raise CellError(self._columns["expected_digest"], quoted(digest), "64 hex digits", fix)
        return digest

    def _extra_of(self, values: Mapping[str, Any], captions: list[str]) -> Mapping[str, str]:
        extra = {}
        for key, cell in self._extra.items():
            text = extra_text(cell(values), self._listing.extra[key])
            if text:
                extra[key] = text
        if len(captions) > 1:
            extra["more_captions"] = json.dumps(captions[1:], ensure_ascii=False)
        events = self._listing.events
        if events is not None:
            start = milliseconds(time_text(values[events.start_s], events.start_s).strip(), 1000, events.start_s)
            end = milliseconds(time_text(values[events.end_s], events.end_s).strip(), 1000, events.end_s)
            label = self._label_name(text_of(values[events.label], events.label).strip(), events.label)
            extra["events"] = json.dumps([[start, end, label]], ensure_ascii=False, separators=(",", ":"))
        return extra


def _cell(value: str, *, needed: bool) -> Cell:
    """A function that takes a mapped value out of a record; a needed template gives None for an empty cell in it."""
    names = template_columns(value)
    if names == (value,):
        return operator.itemgetter(value)

    def fill(values: Mapping[str, Any]) -> str | None:
        texts = {name: text_of(values[name], name).strip() for name in names}
        return None if needed and not all(texts.values()) else value.format_map(texts)

    return fill
