"""Event F1: the best one-to-one matching of two lists of times, and the offsets of matched events."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class EventScore:
    """Counts of matched, missed and false events."""

    matched: int
    missed: int
    """True events without a match."""
    false: int
    """Detected events without a match."""
    offsets_s: tuple[float, ...]
    """Detected minus true, for each matched pair."""

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FN + FP); 1 where there are neither true nor detected events."""
        total = 2 * self.matched + self.missed + self.false
        return 2 * self.matched / total if total else 1.0


def event_f1(
    true_s: np.ndarray,
    found_s: np.ndarray,
    tolerance_s: float,
    inside_s: tuple[float, float] | None = None,
) -> EventScore:
    """Match two lists of times one to one: the most pairs, and of those the nearest.

    Args:
        true_s: true times, ascending.
        found_s: detected times, ascending.
        tolerance_s: largest distance of a pair.
        inside_s: score events between these times only. A pair counts if its true event is inside; an event without a
            match counts if it is inside. So events near the border are not errors.
    """
    pairs = match_times(true_s, found_s, tolerance_s)
    low, high = inside_s if inside_s is not None else (-np.inf, np.inf)
    counted = [(i, j) for i, j in pairs if low <= true_s[i] <= high]
    true_left = set(range(len(true_s))) - {i for i, _ in pairs}
    found_left = set(range(len(found_s))) - {j for _, j in pairs}
    return EventScore(
        matched=len(counted),
        missed=sum(low <= true_s[i] <= high for i in true_left),
        false=sum(low <= found_s[j] <= high for j in found_left),
        offsets_s=tuple(float(found_s[j] - true_s[i]) for i, j in counted),
    )


def match_times(first_s: np.ndarray, second_s: np.ndarray, tolerance_s: float) -> list[tuple[int, int]]:
    """One-to-one matching with the most pairs within `tolerance_s`, and of those the smallest total distance.

    Both lists ascend, so a best matching never crosses and a table over prefixes finds it.
    """
    rows, columns = len(first_s), len(second_s)
    best = np.zeros((rows + 1, columns + 1, 2))  # pairs, minus their total distance
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            choices = [tuple(best[i - 1, j]), tuple(best[i, j - 1])]
            distance = abs(first_s[i - 1] - second_s[j - 1])
            if distance <= tolerance_s:
                choices.append((best[i - 1, j - 1, 0] + 1, best[i - 1, j - 1, 1] - distance))
            best[i, j] = max(choices)
    pairs = []
    i, j = rows, columns
    while i and j:
        if tuple(best[i, j]) == tuple(best[i - 1, j]):
            i -= 1
        elif tuple(best[i, j]) == tuple(best[i, j - 1]):
            j -= 1
        else:
            pairs.append((i - 1, j - 1))
            i, j = i - 1, j - 1
    return pairs[::-1]


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` (N,) and its bootstrap interval: (mean, low, high). NaN for no values."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    random = np.random.default_rng(seed)
    means = np.asarray(values, np.float64)[random.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean(values)), float(low), float(high)
