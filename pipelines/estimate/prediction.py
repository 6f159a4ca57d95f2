"""Predict kept clips, time and bytes of each stage for the whole manifest from a sample; kept in the run directory.

Kept clips are a share, so they get Wilson's interval; time and bytes are sums over units, so they get Student's. Both
intervals cover only the clips outside the sample: the figures of the sample itself are known.
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
PREDICTION_FORMAT = 2
"""Format 1 calls `slowest_host` `paced_host`; it is still read."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A predicted number and its 95% interval; `low` and `high` are None where one unit alone gives no interval."""

    value: float
    low: float | None
    high: float | None

    def at_least(self, floor: float) -> "Estimate":
        """The same, but never below `floor`."""
        low, high = (None if end is None else max(end, floor) for end in (self.low, self.high))
        return Estimate(value=max(self.value, floor), low=low, high=high)

    def scaled(self, factor: float) -> "Estimate":
        """Times `factor`."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(value=self.value * factor, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class StagePrediction:
    """The prediction for one stage over the whole manifest."""

    stage: str
    kept: Estimate
    """Clips that the stage keeps."""
    worker_s: Estimate
    """Seconds of all workers together."""
    wall_s: Estimate
    """Wall-clock seconds with `workers`; at least `rate_limited_s`."""
    bytes: Estimate
    workers: int
    slowest_host: str = ""
    """The host that takes longest at its rate limit; empty for stages that fetch nothing."""
    rate_limited_s: float = 0.0
    """Seconds that this host takes at its rate limit."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of a pilot for the whole manifest."""

    clips: int
    sources: int
    sample_clips: int
    sample_sources: int
    made: str
    """When, UTC."""
    manifest_ids: str
    """Digest of the clip ids of the manifest: shows whether the manifest has changed since."""
    stages: Sequence[StagePrediction]
    not_sampled: Sequence[str] = ()
    """Strata that are too small to be in the sample."""


def predict_share(successes: int, trials: int, whole: int) -> Estimate:
    """Predict how many of `whole` succeed after `trials` of them were tried, with Wilson's interval.

    The interval is for a count among the `whole - trials` others, not for the share in an infinite population; hence a
    smaller number of trials: 1 / n' = 1 / trials + 1 / (whole - trials).
    """
    rest = whole - trials
    if rest <= 0:
        return Estimate(value=successes, low=successes, high=successes)
    share, z = successes / trials, float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    n = trials * rest / whole
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(value=successes + rest * share, low=successes + rest * low, high=successes + rest * high)


def predict_sum(amounts: Sequence[float], sizes: Sequence[int], whole: int, units_to_come: int) -> Estimate:
    """Predict a sum over `whole` clips, where units of `sizes` clips had `amounts`.

    A unit has a fixed cost (a file, a sync) and a cost per clip. A weighted linear fit over the units separates the
    two, because the units of a pilot are small. Student's interval covers the error of the fit and the variance of the
    units outside the sample.

    Args:
        amounts: seconds or bytes of each finished unit.
        sizes: clips (or sources) of each finished unit.
        whole: clips (or sources) of the manifest.
        units_to_come: units that will hold the other clips.
    """
    amount, rest = math.fsum(amounts), whole - sum(sizes)
    if rest <= 0:
        return Estimate(value=amount, low=amount, high=amount)
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
            continue  # a cost below zero is noise: fit without the fixed cost
        value = amount + float(coming @ costs)
        if freedom < 1:
            return Estimate(value=value, low=None, high=None)
        variance = float(((y - design @ costs) ** 2 / x).sum() / freedom)
        standard_error = math.sqrt(variance * (float(coming @ inverse @ coming) + rest))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * standard_error
        return Estimate(value=value, low=max(amount, value - half), high=value + half)
    raise AssertionError("unreachable: amounts are not negative, so their ratio to sizes is not either")


def predict_stage(
    cost: StageCost, clips: int, sources: int, unit_clips: int, slowest: tuple[str, float]
) -> StagePrediction:
    """Predict one stage over `clips` clips of `sources` sources.

    Args:
        cost: of the sample.
        unit_clips: clips of each unit to come.
        slowest: the host that takes longest at its rate limit, and its seconds.
    """
    sizes = [unit.sources if cost.fetches else unit.planned for unit in cost.units]
    whole = sources if cost.fetches else clips
    planned = sum(unit.planned for unit in cost.units)
    units_to_come = math.ceil((clips - planned) / unit_clips)
    worker_s = predict_sum([unit.seconds for unit in cost.units], sizes, whole, units_to_come)
    slowest_host, rate_limited_s = slowest
    return StagePrediction(
        stage=cost.stage,
        kept=predict_share(cost.kept, planned, clips),
        worker_s=worker_s,
        wall_s=worker_s.scaled(1 / cost.workers).at_least(rate_limited_s),
        bytes=predict_sum([unit.bytes for unit in cost.units], sizes, whole, units_to_come),
        workers=cost.workers,
        slowest_host=slowest_host,
        rate_limited_s=rate_limited_s,
    )


def write_prediction(folder: RunFolder, prediction: Prediction) -> None:
    """Write the prediction into the run directory, atomically."""
    content = {"format": PREDICTION_FORMAT, **dataclasses.asdict(prediction)}
    write_bytes(folder.prediction, f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode())


def read_prediction(folder: RunFolder) -> Prediction | None:
    """The prediction of this run's pilot; None where there was none. Raises PipelineError for a damaged file."""
    try:
        content = json.loads(folder.prediction.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    try:
        found = content.pop("format")
        if found not in (1, PREDICTION_FORMAT):
            raise ValueError(f"format {found}; this version reads 1 to {PREDICTION_FORMAT}")
        return Prediction(**{**content, "stages": [_stage(one) for one in content["stages"]]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, error) from error


def _stage(content: Mapping[str, Any]) -> StagePrediction:
    values = {"slowest_host" if name == "paced_host" else name: value for name, value in content.items()}
    estimates = {name: Estimate(**values[name]) for name in ("kept", "worker_s", "wall_s", "bytes")}
    return StagePrediction(**{**values, **estimates})


def _damaged(folder: RunFolder, error: Exception) -> PipelineError:
    return PipelineError(
        f"{folder.prediction}: not a prediction ({error}). Remove the file: the run continues without a prediction."
    )


def format_estimate(estimate: Estimate, text: Callable[[float], str]) -> str:
    """A value and its interval, each formatted by `text`."""
    if estimate.low is None or estimate.high is None:
        return f"{text(estimate.value)} [one unit: no interval]"
    if estimate.low == estimate.high:
        return text(estimate.value)
    return f"{text(estimate.value)} [{text(estimate.low)} to {text(estimate.high)}]"
