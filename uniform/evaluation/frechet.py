"""The Frechet distance of Gaussians behind FID, FVD and FAD, with an interval over clips and its value at infinite N.

Two conventions are published and both have names here: covariances over N - 1 (av-benchmark, audioldm_eval,
frechet-audio-distance, TATS, MM-Diffusion, torch-fidelity) and over N (StyleGAN-V, cd-fvd).

N, M numbers of vectors; d features.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.vectors import Estimate, Vectors, linear_interval, require_vectors

Covariance = Literal["n-1", "n"]
MAX_FIT_FEATURES = 1_000
"""Above this many features the line in 1 / N is fitted through fewer points: each is a decomposition."""


@dataclass(frozen=True, kw_only=True)
class Extrapolated:
    """A Frechet distance carried to infinitely many vectors."""

    value: float
    low: float
    high: float
    r_squared: float
    """How well a straight line in 1 / N fits; well below 1 the value means little."""


@dataclass(frozen=True, kw_only=True)
class _Gaussian:
    """What the distance needs of one set: X = Q L, where X^T X is the covariance."""

    mean: np.ndarray
    centred: np.ndarray
    """(N, d), divided by the square root of N or N - 1."""
    orthogonal: np.ndarray | None
    """(N, d) with orthonormal columns; None where X is its own factor."""
    factor: np.ndarray
    """(min(N, d), d)."""


def frechet(first: np.ndarray, second: np.ndarray, covariance: Covariance = "n-1") -> float:
    """Frechet distance of the Gaussians fitted to two sets (N, d) and (M, d).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) in float64, without a constant on the diagonal. The last trace is the sum
    of the singular values of X Y^T, X and Y centred and scaled: no covariance is formed where N < d. Means
    are taken as the codes of each convention do: over N in float64, over N - 1 in the precision of the input, which
    changes a result by 1e-6 where float32 features lie far from 0.
    Raises: InputError for other shapes, fewer than two vectors, or numbers that are not finite.
    """
    x, y = require_vectors(first, second)
    one, two = _gaussian(x, covariance, want_rows=False), _gaussian(y, covariance, want_rows=False)
    cross = np.linalg.svd(one.factor @ two.factor.T, compute_uv=False).sum()
    gap = one.mean - two.mean if covariance == "n" else np.mean(first, axis=0) - np.mean(second, axis=0)
    return _distance(one, two, gap, float(cross))


def frechet_estimate(
    first: Vectors, second: Vectors, *, covariance: Covariance = "n-1", draws: int = 1000, seed: int = 0
) -> Estimate:
    """`frechet` with its 95% interval over clips, by the derivative of the distance by each clip's weight.

    With X Y^T = U D V^T, the trace of the root changes with the weight of row i by the half of sum_k D_k (Q U)_ik^2.
    """
    x, y = require_vectors(first.values, second.values)
    one, two = _gaussian(x, covariance, want_rows=True), _gaussian(y, covariance, want_rows=True)
    u, singular, vt = np.linalg.svd(one.factor @ two.factor.T, full_matrices=False)
    gap = one.mean - two.mean
    value = _distance(one, two, gap, float(singular.sum()))
    influences = [
        first.clip_sums(_influence(one, gap, u, singular, x)),
        second.clip_sums(_influence(two, -gap, vt.T, singular, y)),
    ]
    found = linear_interval(value, influences, draws, seed)
    return replace(found, low=max(found.low, 0.0), high=max(found.high, 0.0))  # a distance is not below 0


def extrapolated(
    first: Vectors, second: Vectors, *, covariance: Covariance = "n-1", seed: int = 0, interval: Estimate | None = None
) -> Extrapolated:
    """The distance at 1 / N = 0: a straight line through the distances of subsets of clips.

    Sizes run from half of the smaller set to all of it. The idea is FID-infinity's (arXiv:1911.07023), used for audio
    by fadtk. The interval joins the line's own uncertainty with that of `interval`, of the whole sets' distance.
    Raises: InputError for fewer than 4 clips.
    """
    most = min(first.clips, second.clips)
    large = first.values.shape[1] > MAX_FIT_FEATURES
    sizes = np.unique(np.linspace(max(2, most // 2), most, 5 if large else 8).astype(int))
    if most < 4 or len(sizes) < 2:
        raise InputError(f"{most} clips are too few to extrapolate; wanted 4 or more")
    random = np.random.default_rng(seed)
    inverse, distances = [], []
    for size in sizes:
        for _ in range(1 if large else 4):
            x = first.chosen(random.permutation(first.clips)[:size])
            y = second.chosen(random.permutation(second.clips)[:size])
            if min(x.count, y.count) >= 2:
                inverse.append(1 / x.count / 2 + 1 / y.count / 2)
                distances.append(_quick(x.values, y.values, covariance))
    return _line(np.array(inverse), np.array(distances), interval)


def _quick(x: np.ndarray, y: np.ndarray, covariance: Covariance) -> float:
    """`frechet` from eigenvalues of A A^T: half the time, and right to 1e-5 of the trace, which a line does not see."""
    one, two = _gaussian(x, covariance, want_rows=False), _gaussian(y, covariance, want_rows=False)
    crossed = one.factor @ two.factor.T
    squares = np.linalg.eigvalsh(crossed @ crossed.T if len(crossed) <= crossed.shape[1] else crossed.T @ crossed)
    return _distance(one, two, one.mean - two.mean, float(np.sqrt(np.maximum(squares, 0.0)).sum()))


def _line(inverse: np.ndarray, distances: np.ndarray, interval: Estimate | None) -> Extrapolated:
    design = np.stack([np.ones_like(inverse), inverse], axis=1)
    solution, *_ = np.linalg.lstsq(design, distances, rcond=None)
    left = distances - design @ solution
    total = ((distances - distances.mean()) ** 2).sum()
    variance = (left**2).sum() / max(1, len(distances) - 2)
    of_line = variance * np.linalg.pinv(design.T @ design)[0, 0]
    half = 1.96 * float(np.sqrt(of_line))
    if interval is not None and np.isfinite(interval.low):
        half = float(np.hypot(half, (interval.high - interval.low) / 2))
    value = float(solution[0])
    r_squared = float(1 - (left**2).sum() / total) if total > 0 else float("nan")
    return Extrapolated(value=value, low=value - half, high=value + half, r_squared=r_squared)


def _gaussian(x: np.ndarray, covariance: Covariance, *, want_rows: bool) -> _Gaussian:
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - (1 if covariance == "n-1" else 0))
    if len(x) <= x.shape[1]:
        return _Gaussian(mean=mean, centred=centred, orthogonal=None, factor=centred)
    if not want_rows:
        return _Gaussian(
            mean=mean, centred=centred, orthogonal=None, factor=np.asarray(np.linalg.qr(centred, mode="r"))
        )
    orthogonal, factor = np.linalg.qr(centred)
    return _Gaussian(mean=mean, centred=centred, orthogonal=orthogonal, factor=factor)


def _distance(one: _Gaussian, two: _Gaussian, gap: np.ndarray, cross: float) -> float:
    means = (np.asarray(gap, np.float64) ** 2).sum()
    return float(max(means + (one.centred**2).sum() + (two.centred**2).sum() - 2 * cross, 0.0))


def _influence(of: _Gaussian, gap: np.ndarray, left: np.ndarray, singular: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Derivative of the distance by the relative weight of each row, (N,), up to a constant."""
    rows = left if of.orthogonal is None else of.orthogonal @ left
    root = (rows**2) @ singular
    influence: np.ndarray = 2 * (x - of.mean) @ gap / len(x) + (of.centred**2).sum(axis=1) - root
    return influence
