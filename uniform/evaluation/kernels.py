"""Unbiased kernel distances of two sets: KVD, KID and KAD. Near 0 for equal distributions at any N, and below 0 often.

    polynomial   k(x, y) = (x . y / d + 1)^3       KID, KVD
    gaussian     k(x, y) = exp(-|x - y|^2 / (2 s^2))   KAD, times 100

All in float64: in float32 a value of 533,680,827 becomes 533,680,128. N, M vectors; d features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.vectors import Estimate, Vectors, draw_counts, interval, require_vectors

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
KAD_SCALE = 100.0
_BLOCK_ROWS = 1024
"""Kernel matrices are made in blocks of this many rows: 8,192 windows would be 0.5 GB at once."""


@dataclass(frozen=True, kw_only=True)
class SubsetScore:
    """A kernel distance over random subsets."""

    mean: float
    std: float


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / d + 1)^3 of (N, d) and (M, d)."""
    base = x @ y.T / x.shape[1] + 1.0
    result: np.ndarray = base * base * base  # several times as fast as a power
    return result


def gaussian(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / (2 bandwidth^2))."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.exp(-_squared_distances(x, y) / (2 * bandwidth**2))
        return result

    return kernel


def mmd(first: np.ndarray, second: np.ndarray, kernel: Kernel) -> float:
    """Unbiased squared maximum mean discrepancy of (N, d) and (M, d)."""
    x, y = require_vectors(first, second)
    return _mmd(_sums(Vectors.of_rows(x), Vectors.of_rows(y), kernel), len(x), len(y))


def mmd_poly(first: np.ndarray, second: np.ndarray) -> float:
    """KVD: one estimate over all vectors with the cubic kernel (MM-Diffusion)."""
    return mmd(first, second, polynomial)


def kad(first: np.ndarray, second: np.ndarray, bandwidth: float | None = None) -> float:
    """KAD as kadtk computes it: Gaussian kernel, x 100.

    Args:
        bandwidth: None is the median distance within `second`, the evaluated set: kadtk passes it second. Exchanging
            the sets gives another number.
    """
    x, y = require_vectors(first, second)
    return KAD_SCALE * mmd(x, y, gaussian(median_distance(y) if bandwidth is None else bandwidth))


def median_distance(values: np.ndarray) -> float:
    """The lower median of all distances between two different vectors of (N, d).

    Raises: InputError where it is 0: most vectors are equal, so that no kernel can be made from them.
    """
    distances = []
    for begin in range(0, len(values), _BLOCK_ROWS):
        block = values[begin : begin + _BLOCK_ROWS]
        squared = _squared_distances(block, values[begin:])
        above = np.arange(len(values) - begin)[None] > np.arange(len(block))[:, None]
        distances.append(np.sqrt(squared[above]).astype(np.float64))
    joined = np.concatenate(distances)
    middle = (len(joined) - 1) // 2
    median = float(np.partition(joined, middle)[middle])
    if median <= 0:
        raise InputError(f"the median distance of {len(values)} vectors is 0: most of them are equal; no KAD")
    return median


def kid_subsets(first: np.ndarray, second: np.ndarray, *, subsets: int, size: int, seed: int = 2020) -> SubsetScore:
    """KID as torch-fidelity and av-benchmark compute it: mean and deviation of the cubic MMD over random subsets.

    Subsets are drawn without replacement by RandomState(seed), the first set's before the second's.
    Raises: InputError where a set is smaller than a subset.
    """
    x, y = require_vectors(first, second)
    if size > min(len(x), len(y)):
        raise InputError(f"subsets of {size} vectors, but the sets hold {len(x)} and {len(y)}; take smaller subsets")
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        one = x[random.choice(len(x), size, replace=False)]
        two = y[random.choice(len(y), size, replace=False)]
        values.append(mmd(one, two, polynomial))
    return SubsetScore(mean=float(np.mean(values)), std=float(np.std(values)))


def kid_stylegan_v(
    first: np.ndarray, second: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> float:
    """KID as StyleGAN-V computes it, x 1000: sums over all pairs of a subset less the diagonal."""
    x, y = require_vectors(first, second)
    most = min(len(x), len(y), size)
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        one = y[random.choice(len(y), most, replace=False)]
        two = x[random.choice(len(x), most, replace=False)]
        total += mmd(one, two, polynomial)
    return 1000 * total / subsets


def mmd_estimate(
    first: Vectors, second: Vectors, kernel: Kernel, *, scale: float = 1.0, draws: int = 1000, seed: int = 0
) -> Estimate:
    """`mmd` with its 95% interval over clips.

    Every draw is a mean over pairs of different vectors, weighted by how often their clips were drawn. A clip that is
    drawn twice makes no pair with itself, which would add the kernel's diagonal. Right in first and second order, so
    also where both sets are alike.
    """
    require_vectors(first.values, second.values)
    sums = _sums(first, second, kernel)
    value = scale * _mmd(sums, first.count, second.count)
    one, two = draw_counts(first.clips, draws, seed), draw_counts(second.clips, draws, seed + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of one clip alone has no pair: NaN, and no replicate
        own = _weighted(sums.xx, one) / _pairs(first, one) + _weighted(sums.yy, two) / _pairs(second, two)
    cross = np.einsum("bi,bi->b", one @ sums.xy, two) / ((one @ first.sizes) * (two @ second.sizes))
    return interval(value, scale * (own - 2 * cross))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Kernel values summed over the vectors of clips; xx and yy leave out a vector's pair with itself."""

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray


def _sums(first: Vectors, second: Vectors, kernel: Kernel) -> _Sums:
    return _Sums(
        xx=_clip_sums(first, first, kernel, same=True),
        yy=_clip_sums(second, second, kernel, same=True),
        xy=_clip_sums(first, second, kernel, same=False),
    )


def _clip_sums(first: Vectors, second: Vectors, kernel: Kernel, *, same: bool) -> np.ndarray:
    rows = []
    for begin in range(0, first.count, _BLOCK_ROWS):
        block = kernel(first.values[begin : begin + _BLOCK_ROWS], second.values)
        if same:
            index = np.arange(len(block))
            block[index, begin + index] = 0.0
        rows.append(np.add.reduceat(block, second.starts, axis=1))
    sums: np.ndarray = np.add.reduceat(np.concatenate(rows), first.starts, axis=0)
    return sums


def _mmd(sums: _Sums, n: int, m: int) -> float:
    return float(sums.xx.sum() / (n * (n - 1)) + sums.yy.sum() / (m * (m - 1)) - 2 * sums.xy.sum() / (n * m))


def _pairs(vectors: Vectors, counts: np.ndarray) -> np.ndarray:
    """Pairs of different vectors in each draw: of different clips, and of one clip once for each time it was drawn."""
    sizes = vectors.sizes.astype(np.float64)
    pairs: np.ndarray = (counts @ sizes) ** 2 - counts**2 @ sizes**2 + counts @ (sizes * (sizes - 1))
    return pairs


def _weighted(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    diagonal = np.diag(sums)
    crossed: np.ndarray = np.einsum("bi,bi->b", counts @ sums, counts) - (counts**2) @ diagonal + counts @ diagonal
    return crossed


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    result: np.ndarray = np.maximum(squared, 0.0)
    return result
