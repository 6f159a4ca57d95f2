"""Preference between two sample sets from answers of a rating page: interval over clips, agreement of raters.

preference   share of answers for the second set, ties counted half
agreement    Krippendorff's alpha (nominal) over clips that two raters or more answered; 1 is full, 0 is chance
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.rating_page import SCHEMA, read_key, side_key, sides
from uniform.evaluation.vectors import mean_interval

MAX_BYTES = 16 << 20
VALUE = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What raters prefer."""

    first: str
    second: str
    question: str
    raters: int
    clips: int
    answers: int
    share_second: float
    low: float
    high: float
    """95% interval over clips; raters of one clip are not independent."""
    counts: Mapping[str, int]
    """Answers for first, second, tie."""
    alpha: float | None
    """None where no clip has two raters, or all answers are alike."""
    left_share: float
    """Answers "left" among left and right: far from 0.5, sides were preferred and not clips."""

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes "no preference"."""
        return not self.low <= 0.5 <= self.high


def preference(files: Sequence[Path], key: Path, *, draws: int = 10_000, seed: int = 0) -> Preference:
    """Join the answers of several raters.

    Args:
        files: what raters saved; one file a rater.
        key: the file `NAME.key.json` beside the page.
    Raises: InputError for another page's answers, a rater given twice, or a file that is none.
    """
    known = read_key(key)
    by_clip: dict[int, dict[str, str]] = {}
    left = 0
    raters: set[str] = set()
    for path in files:
        rater, choices, lefts = _answers(path, known)
        if rater in raters:
            raise InputError(
                f"{path}: rater '{rater}' has a second file. Give one file a rater, under a name of its own."
            )
        raters.add(rater)
        left += lefts
        for pair, choice in choices.items():
            by_clip.setdefault(pair, {})[rater] = choice
    if not by_clip:
        raise InputError("no answer is in these files")
    means = np.array([np.mean([VALUE[choice] for choice in of.values()]) for of in by_clip.values()])
    estimate = mean_interval(means, draws, seed)
    counts = Counter(choice for of in by_clip.values() for choice in of.values())
    decided = counts["first"] + counts["second"]
    return Preference(
        first=known["sets"]["first"],
        second=known["sets"]["second"],
        question=str(known["question"]),
        raters=len(raters),
        clips=len(by_clip),
        answers=sum(counts.values()),
        share_second=estimate.value,
        low=estimate.low,
        high=estimate.high,
        counts={name: counts[name] for name in VALUE},
        alpha=krippendorff_alpha([list(of.values()) for of in by_clip.values()]),
        left_share=left / decided if decided else 0.5,
    )


def krippendorff_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Nominal alpha of several raters' values per unit; None where nothing can be compared.

    Source: Krippendorff, Computing Krippendorff's alpha-reliability (2011).
    """
    paired = [list(unit) for unit in units if len(unit) > 1]
    values = Counter(value for unit in paired for value in unit)
    total = sum(values.values())
    if not paired or len(values) < 2:
        return None
    observed = sum(
        sum(counts[a] * counts[b] for a in counts for b in counts if a != b) / (len(unit) - 1)
        for unit in paired
        for counts in (Counter(unit),)
    )
    expected = sum(values[a] * values[b] for a in values for b in values if a != b) / (total - 1)
    return float(1 - observed / expected)


def _answers(path: Path, key: Mapping[str, Any]) -> tuple[str, dict[int, str], int]:
    """Rater, choice by pair ("first", "second", "tie"), and how often the left side was taken."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes; answers have at most {MAX_BYTES:,}")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a file of answers ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("answers"), list):
        raise InputError(f"{path}: not a file of answers that a rating page saved")
    if content.get("page") != key["page"]:
        raise InputError(f"{path}: answers of another page (or of one written again). The key must be that page's.")
    rows = content["answers"]
    if not all(isinstance(row, dict) and isinstance(row.get("pair"), int) for row in rows):
        raise InputError(f"{path}: an answer has no pair; the file was changed")
    sides([str(row.get("choice")) for row in rows])
    choices, left = {}, 0
    for row in rows:
        on_left = next(
            (s for s in ("first", "second") if side_key(key["page"], row["pair"], s) == row.get("key")), None
        )
        if on_left is None or row["pair"] in choices:
            raise InputError(f"{path}: the answer of pair {row['pair']} does not belong to this page, or stands twice")
        other = "second" if on_left == "first" else "first"
        choices[row["pair"]] = {"left": on_left, "right": other, "tie": "tie"}[row["choice"]]
        left += row["choice"] == "left"
    return str(content.get("rater") or path.stem), choices, left
