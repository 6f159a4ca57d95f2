"""A set of feature vectors that remember which clip each belongs to, and the draws of clips that give intervals.

N vectors, n clips, d features. A clip may have several vectors (VGGish: one a window), so everything that is drawn at
random draws clips: windows of one clip are alike, and an interval over windows would be too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from uniform.errors import InputError

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Feature vectors grouped by clip."""

    values: np.ndarray
    """float64 (N, d), the vectors of one clip beside each other."""
    sizes: np.ndarray
    """int (n,), vectors of each clip, 1 or more."""

    @classmethod
    def of_clips(cls, clips: Sequence[np.ndarray]) -> "Vectors":
        """From one array a clip, (d,) or (windows, d). Raises InputError for none, or for unequal d."""
        if not clips:
            raise InputError("there are no clips; wanted one feature vector or more")
        rows = [np.atleast_2d(np.asarray(clip, np.float64)) for clip in clips]
        if len({row.shape[1] for row in rows}) > 1:
            raise InputError(f"features have {sorted({row.shape[1] for row in rows})} dimensions; wanted one number")
        return cls(values=np.concatenate(rows), sizes=np.array([len(row) for row in rows]))

    @classmethod
    def of_rows(cls, values: np.ndarray) -> "Vectors":
        """Every row (N, d) is a clip of its own."""
        return cls(values=np.asarray(values, np.float64), sizes=np.ones(len(values), int))

    @property
    def clips(self) -> int:
        """Clips."""
        return len(self.sizes)

    @property
    def count(self) -> int:
        """Vectors."""
        return len(self.values)

    @cached_property
    def starts(self) -> np.ndarray:
        """int (n,): the row where each clip begins."""
        starts: np.ndarray = np.cumsum(self.sizes) - self.sizes
        return starts

    def chosen(self, clips: np.ndarray) -> "Vectors":
        """The vectors of some clips, in that order."""
        rows = [np.arange(self.starts[clip], self.starts[clip] + self.sizes[clip]) for clip in clips]
        return Vectors(values=self.values[np.concatenate(rows)], sizes=self.sizes[clips])

    def clip_sums(self, per_vector: np.ndarray) -> np.ndarray:
        """(N,) summed over the vectors of each clip, (n,)."""
        sums: np.ndarray = np.add.reduceat(per_vector, self.starts)
        return sums


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95% interval over clips."""

    value: float
    low: float
    high: float
    replicates: np.ndarray | None = None
    """(draws,) values of the bootstrap. Equal clips and seed give equal draws, so two of them may be subtracted."""


def draw_counts(clips: int, draws: int, seed: int) -> np.ndarray:
    """How often each of `clips` is in each of `draws` samples with replacement, float64 (draws, clips)."""
    random = np.random.default_rng(seed)
    counts: np.ndarray = random.multinomial(clips, np.full(clips, 1 / clips), size=draws).astype(np.float64)
    return counts


def interval(value: float, replicates: np.ndarray) -> Estimate:
    """The percentile interval of bootstrap replicates about `value`; NaN where fewer than half of them are finite."""
    finite = replicates[np.isfinite(replicates)]
    if 2 * len(finite) < max(2, len(replicates)):
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), replicates=replicates)


def linear_interval(value: float, influences: Sequence[np.ndarray], draws: int, seed: int) -> Estimate:
    """The interval of a statistic that is smooth in the weights of its clips.

    Resampling repeats clips, and a repeated clip carries no new information: a Frechet distance of a resample is
    larger than that of the set by the bias of its smaller number, so that the usual interval can lie wholly above the
    value. Its first-order expansion in the clips' weights has the same spread without that shift.

    Args:
        influences: for each set, the derivative of the statistic by the weight of each clip, (n,), weights 1 at first.
    """
    replicates = np.full(draws, value)
    for number, influence in enumerate(influences):
        centred = influence - influence.mean()
        replicates = replicates + (draw_counts(len(influence), draws, seed + number) - 1) @ centred
    return interval(value, replicates)


def mean_interval(values: np.ndarray, draws: int, seed: int) -> Estimate:
    """Mean of one number a clip, (n,), with the bootstrap's interval. NaN for no values."""
    if not len(values):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    numbers = np.asarray(values, np.float64)
    return interval(float(numbers.mean()), draw_counts(len(numbers), draws, seed) @ numbers / len(numbers))


def require_vectors(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets as float64. Raises InputError for other shapes, fewer than two vectors, or numbers not finite."""
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(f"features are {x.shape} and {y.shape}; wanted (N, d) and (M, d), two vectors or more of each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features hold numbers that are not finite; look for broken clips")
    return x, y
