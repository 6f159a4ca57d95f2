"""What a sample says about the whole: survivors, time and bytes per stage, with intervals; kept beside the run.

Survivors are a share, so theirs is Wilson's interval; time and bytes are sums over units, so theirs is Student's. Both
are intervals for the clips that are still to come: what the sample itself showed is known.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipelines.estimate.costs import StageCost
from pipelines.run.folder import RunFolder
from uniform.atomic import write_bytes
from uniform.errors import PipelineError

CONFIDENCE = 0.95
PREDICTION_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A number to expect, and the interval that holds it 19 times in 20; None where one unit tells too little."""

    value: float
    low: float | None
    high: float | None

    def at_least(self, floor: float) -> "Expected":
        """The same, but never below `floor`."""
        low, high = (None if end is None else max(end, floor) for end in (self.low, self.high))
        return Expected(value=max(self.value, floor), low=low, high=high)

    def scaled(self, factor: float) -> "Expected":
        """Times `factor`."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Expected(value=self.value * factor, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class StageExpected:
    """One stage over the whole manifest."""

    stage: str
    kept: Expected
    """Clips that stay after it."""
    worker_s: Expected
    """Seconds of all workers together."""
    wall_s: Expected
    """Seconds by the clock, with `workers`; never less than the hosts' pace allows."""
    bytes: Expected
    workers: int
    paced_host: str = ""
    """The host that the fetch waits for longest; empty for other stages."""
    rate_limited_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a pilot says about the whole manifest."""

    clips: int
    sources: int
    sample_clips: int
    sample_sources: int
    made: str
    """When, UTC."""
    manifest_ids: str
    """Digest of the ids of the whole manifest, so that a later, longer manifest does not pass for this one."""
    stages: Sequence[StageExpected]
    not_sampled: Sequence[str] = ()
    """Groups of clips that are too small to be in the sample."""


def expected_share(successes: int, trials: int, whole: int) -> Expected:
    """How many of `whole` succeed, where `trials` of them were tried: Wilson's interval for those not tried.

    The interval foretells a count among `whole - trials`, not a share of endlessly many; hence the smaller number of
    trials: 1 / n' = 1 / trials + 1 / (whole - trials).
    """
    rest = whole - trials
    if rest <= 0:
        return Expected(value=successes, low=successes, high=successes)
    share, z = successes / trials, float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    n = trials * rest / whole
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Expected(value=successes + rest * share, low=successes + rest * low, high=successes + rest * high)


def expected_sum(amounts: Sequence[float], sizes: Sequence[int], whole: int, units_to_come: int) -> Expected:
    """A sum over `whole` clips, where units of `sizes` clips had `amounts`.

    A unit costs something whatever its size (a file, a sync), and something for each clip; a pilot's units are small,
    so the two are told apart by a line through the units, each weighted by its size. Student's interval holds what is
    uncertain about the line, and how much the units to come will differ among themselves.

    Args:
        units_to_come: units that will hold the clips that no unit of `sizes` holds.
    """
    amount, rest = math.fsum(amounts), whole - sum(sizes)
    if rest <= 0:
        return Expected(value=amount, low=amount, high=amount)
    x = np.maximum(np.array(sizes, dtype=float), 1.0)
    y = np.array(amounts, dtype=float)
    for design, coming in (
        (np.stack([np.ones_like(x), x], axis=1), np.array([units_to_come, rest], dtype=float)),
        (x[:, None], np.array([rest], dtype=float)),
    ):
        weighted = design / x[:, None]
        if np.linalg.matrix_rank(design) < design.shape[1]:
            continue  # all units are of one size
        inverse = np.linalg.inv(design.T @ weighted)
        costs = inverse @ (weighted.T @ y)
        freedom = len(x) - design.shape[1]
        if costs.min() < 0 or (freedom < 1 and design.shape[1] > 1):
            continue  # a cost below zero is chance: leave the unit's own cost out
        value = amount + float(coming @ costs)
        if freedom < 1:
            return Expected(value=value, low=None, high=None)
        variance = float(((y - design @ costs) ** 2 / x).sum() / freedom)
        spread = math.sqrt(variance * (float(coming @ inverse @ coming) + rest))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * spread
        return Expected(value=value, low=max(amount, value - half), high=value + half)
    raise AssertionError("unreachable: amounts are not negative, so their ratio to sizes is not either")


def expected_stage(
    cost: StageCost, clips: int, sources: int, unit_clips: int, paced: tuple[str, float]
) -> StageExpected:
    """One stage over `clips` clips of `sources` sources.

    Args:
        cost: of the sample.
        unit_clips: clips of each unit to come.
        paced: the host that takes longest, and its seconds.
    """
    sizes = [unit.sources if cost.fetches else unit.planned for unit in cost.units]
    whole = sources if cost.fetches else clips
    planned = sum(unit.planned for unit in cost.units)
    units_to_come = math.ceil((clips - planned) / unit_clips)
    worker_s = expected_sum([unit.seconds for unit in cost.units], sizes, whole, units_to_come)
    paced_host, rate_limited_s = paced
    return StageExpected(
        stage=cost.stage,
        kept=expected_share(cost.kept, planned, clips),
        worker_s=worker_s,
        wall_s=worker_s.scaled(1 / cost.workers).at_least(rate_limited_s),
        bytes=expected_sum([unit.bytes for unit in cost.units], sizes, whole, units_to_come),
        workers=cost.workers,
        paced_host=paced_host,
        rate_limited_s=rate_limited_s,
    )


def write_prediction(folder: RunFolder, prediction: Prediction) -> None:
    """Keep it in the run's folder, whole or not at all."""
    told = {"format": PREDICTION_FORMAT, **dataclasses.asdict(prediction)}
    write_bytes(folder.prediction, f"{json.dumps(told, indent=1, sort_keys=True)}\n".encode())


def read_prediction(folder: RunFolder) -> Prediction | None:
    """What the pilot of this folder said; None where there was none. Raises PipelineError for a damaged file."""
    try:
        told = json.loads(folder.prediction.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    try:
        if told.pop("format") != PREDICTION_FORMAT:
            raise ValueError("another format")
        return Prediction(**{**told, "stages": [_stage(one) for one in told["stages"]]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, error) from error


def _stage(told: Mapping[str, Any]) -> StageExpected:
    numbers = {name: Expected(**told[name]) for name in ("kept", "worker_s", "wall_s", "bytes")}
    return StageExpected(**{**told, **numbers})


def _damaged(folder: RunFolder, error: Exception) -> PipelineError:
    return PipelineError(f"{folder.prediction}: not a prediction ({error}). Remove the file; the run does without it.")


def format_expected(expected: Expected, text: Callable[[float], str]) -> str:
    """A value and its interval, each written by `text`."""
    if expected.low is None or expected.high is None:
        return f"{text(expected.value)} [one unit: no interval]"
    if expected.low == expected.high:
        return text(expected.value)
    return f"{text(expected.value)} [{text(expected.low)} to {text(expected.high)}]"
