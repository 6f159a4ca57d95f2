"""Event F1: the best one-to-one matching, checked against every possible one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.evaluation.event_f1 import bootstrap, event_f1, match_times

_times = st.lists(st.integers(0, 60), max_size=5).map(lambda ticks: np.array(sorted(ticks)) / 10)


@settings(max_examples=150, deadline=None)
@given(_times, _times)
def test_the_matching_is_the_best_of_all_matchings(first: np.ndarray, second: np.ndarray) -> None:
    pairs = match_times(first, second, 0.55)

    def worth(chosen: tuple[tuple[int, int], ...]) -> tuple[int, float]:
        return len(chosen), -round(sum(abs(first[i] - second[j]) for i, j in chosen), 9)

    near = [(i, j) for i in range(len(first)) for j in range(len(second)) if abs(first[i] - second[j]) <= 0.55]
    possible = [
        chosen
        for size in range(min(len(first), len(second)) + 1)
        for chosen in itertools.combinations(near, size)
        if len({i for i, _ in chosen}) == size == len({j for _, j in chosen})
    ]
    assert worth(tuple(pairs)) == max(worth(chosen) for chosen in possible)
    assert len({i for i, _ in pairs}) == len(pairs) == len({j for _, j in pairs})


def test_f1_counts_missed_and_false_events() -> None:
    score = event_f1(np.array([0.5, 1.0, 1.5]), np.array([0.52, 1.3]), tolerance_s=0.05)

    assert (score.matched, score.missed, score.false) == (1, 2, 1)
    assert score.f1 == pytest.approx(2 / 5)
    assert score.offsets_s == pytest.approx((0.02,))


def test_many_events_at_one_true_event_match_once() -> None:
    assert event_f1(np.array([1.0]), np.array([0.98, 1.0, 1.01, 1.02]), tolerance_s=0.06).matched == 1


def test_events_on_the_border_do_not_count() -> None:
    """A true event just inside the border, found just outside it, is right; the other way round it does not count."""
    found_outside = event_f1(np.array([0.11, 1.0]), np.array([0.09, 1.0]), 0.05, inside_s=(0.1, 1.9))
    true_outside = event_f1(np.array([0.09, 1.0]), np.array([0.11, 1.0]), 0.05, inside_s=(0.1, 1.9))
    ends = event_f1(np.array([0.02]), np.array([1.95]), 0.05, inside_s=(0.1, 1.9))

    assert (found_outside.matched, found_outside.missed, found_outside.false) == (2, 0, 0)
    assert (true_outside.matched, true_outside.missed, true_outside.false) == (1, 0, 0)
    assert (ends.matched, ends.missed, ends.false) == (0, 0, 0)


def test_f1_without_any_event_is_1() -> None:
    nothing = np.empty(0)

    assert event_f1(nothing, nothing, 0.05).f1 == 1.0
    assert event_f1(nothing, np.array([1.0]), 0.05).f1 == 0.0
    assert event_f1(np.array([1.0]), nothing, 0.05).f1 == 0.0


def test_bootstrap_interval_covers_the_mean_and_shrinks_with_more_values() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, 400)

    mean, low, high = bootstrap(values)
    _, few_low, few_high = bootstrap(values[:40])

    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 0.2 / 20, rel=0.15)
    assert few_high - few_low > 2 * (high - low)
