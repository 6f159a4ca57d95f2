"""Clips that two datasets have from the same span of one source: marked in the rows, before anything is fetched.

AudioSet and VGGSound share thousands of segments. Within one dataset, `overlaps.py` has resolved both.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pipelines.clip import Row
from pipelines.manifest.identity import source_keys

MARK = "same_span_as"
"""Key of `extra`: the clip that is kept in this one's place."""


def mark_cross_dataset_duplicates(rows: Sequence[Row]) -> list[Row]:
    """The rows, with a mark on each clip that another dataset's clip stands for already.

    Two clips of one source are the same where at least half of the shorter one is shared; the dataset that was named
    first keeps it. Between `train` and another split any overlap is a split overlap, and the clip of `train` is marked.
    """
    if len({row.dataset for row in rows}) < 2:
        return list(rows)
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for key in source_keys(row):
            by_source[key].append(number)
    marks: dict[int, Row] = {}
    for numbers in by_source.values():
        for place, later in enumerate(numbers):
            for earlier in numbers[:place]:
                _mark(rows, earlier, later, marks)
    return [
        replace(row, extra={**row.extra, MARK: f"{marks[n].dataset}/{marks[n].clip_id}"}) if n in marks else row
        for n, row in enumerate(rows)
    ]


def _mark(rows: Sequence[Row], earlier: int, later: int, marks: dict[int, Row]) -> None:
    first, second = rows[earlier], rows[later]
    shared_ms = min(first.end_ms, second.end_ms) - max(first.start_ms, second.start_ms)
    if first.dataset == second.dataset or shared_ms <= 0 or earlier in marks or later in marks:
        return
    if (first.split == "train") != (second.split == "train"):
        marks[earlier if first.split == "train" else later] = second if first.split == "train" else first
    elif 2 * shared_ms >= min(first.duration_ms, second.duration_ms):
        marks[later] = first
