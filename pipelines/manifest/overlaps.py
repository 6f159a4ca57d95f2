"""Checks over all rows of a listing: duplicate clips, and sources whose spans are in two splits."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipelines.clip import Row
from pipelines.manifest.diagnostics import Problems
from pipelines.manifest.identity import source_keys
from pipelines.manifest.listing_schema import Listing

Place = Callable[[int], str]
"""Row's number -> file:line."""


@dataclass(frozen=True)
class Overlap:
    """Two clips of one source that share at least a millisecond; numbers of their rows."""

    first: int
    second: int


def resolve_duplicates(rows: list[Row], listing: Listing, place: Place, problems: Problems) -> list[int]:
    """Numbers of the rows that stay, as `listing.on_duplicate` says; merged rows are replaced in `rows`.

    A clip that is in two splits stays twice: that is a split overlap, which `check_split_overlaps` judges.
    """
    first: dict[tuple[str, str], int] = {}
    more: defaultdict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        kept = first.setdefault((row.clip_id, row.split), number)
        if kept != number:
            more[kept].append(number)
    for kept, others in more.items():
        if listing.on_duplicate == "merge":
            rows[kept] = _merged([rows[kept], *(rows[other] for other in others)])
            continue
        for other in others:
            note = problems.error if listing.on_duplicate == "error" else problems.warn
            found = f"clip {_span(rows[other])} a second time"
            note(place(other), None, found, f"each clip once (first at {place(kept)})", _duplicate_fix(listing))
    return sorted(first.values())


def first_of_each(rows: Sequence[Row], dropped: set[int]) -> list[int]:
    """Numbers of the rows outside `dropped` that are the first of their clip id: an accepted overlap stays once."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if number not in dropped:
            first.setdefault(row.clip_id, number)
    return sorted(first.values())


def _duplicate_fix(listing: Listing) -> str:
    if listing.on_duplicate == "first":
        return "The first is kept."
    return 'Remove the line, or set listing.on_duplicate to "first" or "merge".'


def _merged(rows: Sequence[Row]) -> Row:
    """One row of several lines about one clip: labels merged, events joined, further captions kept in `extra`."""
    labels = tuple(dict.fromkeys(label for row in rows for label in row.labels))
    extra = {key: value for row in reversed(rows) for key, value in row.extra.items()}
    if any("events" in row.extra for row in rows):
        extra["events"] = "[" + ",".join(row.extra["events"][1:-1] for row in rows if "events" in row.extra) + "]"
    captions = list(dict.fromkeys(row.caption for row in rows if row.caption))
    if len(captions) > 1:
        extra["more_captions"] = json.dumps(captions[1:], ensure_ascii=False)
    return replace(
        rows[0],
        labels=labels,
        caption=captions[0] if captions else None,
        caption_origin="given" if captions else None,
        extra=extra,
    )


def overlaps(rows: Sequence[Row], files: Sequence[str | None] | None = None) -> list[Overlap]:
    """For each clip the overlaps with earlier ones of its source: one per split, the clip that ends last.

    Args:
        rows: clips.
        files: for each row the identity of its file on disk, where it is known; None where no row has one.
    """
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for key in source_keys(row):
            by_source[key].append(number)
        if files is not None and (file := files[number]) is not None:
            by_source[f"\0{file}"].append(number)
    found: dict[Overlap, None] = {}
    for numbers in by_source.values():
        if len(numbers) < 2:
            continue
        numbers.sort(key=lambda n: (rows[n].start_ms, rows[n].duration_ms, n))
        last: dict[str, int] = {}  # split -> the clip so far that ends last
        for number in numbers:
            row = rows[number]
            for other in last.values():
                if rows[other].end_ms > row.start_ms:
                    found[Overlap(other, number)] = None
            if row.split not in last or rows[last[row.split]].end_ms < row.end_ms:
                last[row.split] = number
    return list(found)


def check_split_overlaps(
    rows: Sequence[Row],
    listing: Listing,
    place: Place,
    problems: Problems,
    files: Sequence[str | None] | None = None,
) -> set[int]:
    """Note a source with overlapping spans in two splits (an error), and overlaps within a split (a warning).

    Returns: numbers of the rows to leave out, where `listing.on_leak` is "drop_train".
    """
    within: list[Overlap] = []
    dropped: set[int] = set()
    for overlap in overlaps(rows, files):
        if rows[overlap.first].split == rows[overlap.second].split:
            within.append(overlap)
        else:
            dropped |= _split_overlap(rows, overlap, listing, place, problems)
    if within:
        example = within[0]
        count = f"{len(within):,} clips that overlap another of the same split"
        found = f"{count}, for instance {_span(rows[example.second])}"
        problems.warn(place(example.second), None, found, "distinct spans, as a rule", "They are kept.")
    return dropped


def _split_overlap(
    rows: Sequence[Row], overlap: Overlap, listing: Listing, place: Place, problems: Problems
) -> set[int]:
    """Note one split overlap; returns the numbers of the rows that are left out."""
    first, second = rows[overlap.first], rows[overlap.second]
    train = {number for number in (overlap.first, overlap.second) if rows[number].split == "train"}
    drop = train if listing.on_leak == "drop_train" else set()
    note = problems.warn if drop or listing.on_leak == "warn" else problems.error
    found = f"{_span(second)} in split '{second.split}', and {_span(first)} in '{first.split}'"
    fix = "The clip of split 'train' is left out." if drop else 'Remove one, or set listing.on_leak to "drop_train".'
    wanted = f"no time of a source in two splits (the other is at {place(overlap.first)})"
    note(place(overlap.second), None, found, wanted, fix)
    return drop


def _span(row: Row) -> str:
    return f"{row.source_id!r} {row.start_ms / 1000:g}-{row.end_ms / 1000:g} s"
