"""Two sample sets of the same clips, clip by clip: is one better, and is the difference more than chance?

Scores of single clips are subtracted clip by clip. Distances of sets are subtracted draw by draw: both sets and the
real clips are drawn alike, so what the two arms share does not widen the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.metric_names import Metric
from uniform.evaluation.metric_values import Arrays, set_value
from uniform.evaluation.run import Evaluation
from uniform.evaluation.table import Member
from uniform.evaluation.vectors import Estimate, interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two arms."""

    metric: str
    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    """95% interval of the difference, over clips."""
    clips: int
    better: str
    """"first", "second", or "not resolved"."""
    second_wins: float | None = None
    """Share of clips where the second is better, ties counted half; None for distances of sets."""


def compare(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Every metric that both evaluations have, on the clips that count in both.

    Raises: InputError for evaluations under two protocols, or without a clip in common.
    """
    if first.protocol.digest != second.protocol.digest:
        raise InputError("the two evaluations follow two protocols; compare under one")
    names = {metric.name for metric in second.metrics}
    return [_difference(metric, first, second) for metric in first.metrics if metric.name in names]


def _difference(metric: Metric, first: Evaluation, second: Evaluation) -> Difference:
    if metric.per_clip:
        return _of_clips(metric, first, second)
    one, two = first.features(metric, "generated"), second.features(metric, "generated")
    common = sorted(set(one) & set(two))
    if len(common) < 2:
        raise InputError(f"{metric.name}: {len(common)} clips are in both sets; wanted 2 or more")
    real = first.features(metric, "real")
    chosen = _real_of(common, real, first)
    statistics = first.protocol.protocol.statistics
    estimates = [
        set_value(metric, [side[member] for member in common], chosen, statistics).estimate for side in (one, two)
    ]
    return _made(metric, estimates, len(common))


def _real_of(common: Sequence[Member], real: "dict[Member, Arrays] | object", first: Evaluation) -> list[Arrays]:
    assert isinstance(real, dict)
    if not first.protocol.protocol.sets.same_clips:
        return list(real.values())
    wanted = {clip_id for clip_id, _ in common}
    return [arrays for (clip_id, _), arrays in sorted(real.items()) if clip_id in wanted]


def _of_clips(metric: Metric, first: Evaluation, second: Evaluation) -> Difference:
    one, two = (evaluation.table.clip_scores.get(metric.name, {}) for evaluation in (first, second))
    common = sorted(set(one) & set(two))
    if not common:
        raise InputError(f"{metric.name}: no clip has a score in both sets")
    a, b = (np.array([side[member] for member in common]) for side in (one, two))
    statistics = first.protocol.protocol.statistics
    gap = mean_interval(b - a, statistics.draws, statistics.seed)
    sign = 1 if metric.better == "higher" else -1
    wins = float(np.mean(np.sign(sign * (b - a)) / 2 + 0.5))
    return Difference(
        metric=metric.name,
        first=float(a.mean()),
        second=float(b.mean()),
        difference=gap.value,
        low=gap.low,
        high=gap.high,
        clips=len(common),
        better=_better(metric, gap),
        second_wins=wins,
    )


def _made(metric: Metric, estimates: Sequence[Estimate], clips: int) -> Difference:
    one, two = estimates
    empty = np.empty(0)
    draws = empty if one.replicates is None or two.replicates is None else two.replicates - one.replicates
    gap = interval(two.value - one.value, draws)
    return Difference(
        metric=metric.name,
        first=one.value,
        second=two.value,
        difference=gap.value,
        low=gap.low,
        high=gap.high,
        clips=clips,
        better=_better(metric, gap),
    )


def _better(metric: Metric, gap: Estimate) -> str:
    if not np.isfinite([gap.low, gap.high]).all() or gap.low <= 0.0 <= gap.high:
        return "not resolved"
    return "second" if (gap.value > 0) == (metric.better == "higher") else "first"
