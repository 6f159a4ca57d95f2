"""Distances between sets of feature vectors, and scores of class probabilities: the arithmetic alone, in NumPy.

Which network made the features decides what a number means, so none is named here. Reference code and its choices are
compared in `docs/synthetic_world.md`; a distance from N vectors is biased upwards, so print N with it, the distance of
two halves of the real set as floor, and `extrapolated`.

N, M numbers of vectors; d features; C classes.
"""

import numpy as np

from uniform.errors import InputError


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets (N, d) and (M, d): the arithmetic of FID, FVD and FAD.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), covariances over N - 1, float64, no constant on the diagonal. The last
    trace is the sum of the singular values of X Y^T, X and Y centred and scaled: no covariance is formed where N < d.
    Raises: InputError for other shapes, fewer than two vectors, or numbers that are not finite.
    """
    x, y = _checked(first, second)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x = (x - mean_x) / np.sqrt(len(x) - 1)
    y = (y - mean_y) / np.sqrt(len(y) - 1)
    # S1 = X^T X, and any Z with Z^T Z = S1 will do for X: the smaller of the two is taken.
    left, right = _factor(x), _factor(y)
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    distance = ((mean_x - mean_y) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross
    return float(max(distance, 0.0))


def mmd_poly(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with k(x, y) = (x . y / d + 1)^3: the arithmetic of KID and KVD.

    May be below 0 for equal distributions. Sets (N, d) and (M, d).
    """
    x, y = _checked(first, second)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result: np.ndarray = (a @ b.T / a.shape[1] + 1.0) ** 3
        return result

    xx, yy = kernel(x, x), kernel(y, y)
    n, m = len(x), len(y)
    own = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(own - 2 * kernel(x, y).mean())


def extrapolated(first: np.ndarray, second: np.ndarray, seed: int = 0, points: int = 8, repeats: int = 4) -> float:
    """`frechet` carried to infinitely many vectors: a straight line through subsets, in 1 / N, read at 0.

    Source of the idea: FID-infinity (arXiv:1911.07023). Sizes run from half of the smaller set to all of it.
    """
    x, y = _checked(first, second)
    most = min(len(x), len(y))
    random = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(max(2, most // 2), most, points).astype(int))
    if len(sizes) < 2:
        raise InputError(f"{most} vectors are too few to extrapolate; wanted 4 or more")

    def drawn(size: int) -> float:
        return frechet(x[random.permutation(len(x))[:size]], y[random.permutation(len(y))[:size]])

    distances = [np.mean([drawn(int(size)) for _ in range(repeats)]) for size in sizes]
    return float(np.polyfit(1.0 / sizes, distances, 1)[1])


def inception_score(probabilities: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """exp(mean KL(p(c | x) || p(c))), mean and deviation over splits of the shuffled set.

    Args:
        probabilities: (N, C), rows that sum to 1.
        splits: parts of the set; the score rises with the size of a part, so print it.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or len(p) < splits or not np.allclose(p.sum(axis=1), 1.0, atol=1e-4):
        raise InputError(f"probabilities are {p.shape}; wanted (N, C), N >= {splits}, rows that sum to 1")
    order = np.random.default_rng(seed).permutation(len(p))
    scores = [
        np.exp(_kl(p[part], p[part].mean(axis=0, keepdims=True)).mean()) for part in np.array_split(order, splits)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def paired_kl(true_logits: np.ndarray, generated_logits: np.ndarray) -> float:
    """Mean KL(p_true || p_generated) over pairs, softmax of logits (N, C), exact (no constant in the logarithm)."""
    x, y = _checked(true_logits, generated_logits)
    if len(x) != len(y):
        raise InputError(f"{len(x)} true and {len(y)} generated rows; wanted pairs")
    log_p, log_q = _log_softmax(x), _log_softmax(y)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def _factor(x: np.ndarray) -> np.ndarray:
    """Z with Z^T Z = x^T x and no more rows than columns: x itself, or the R of its QR decomposition."""
    if len(x) <= x.shape[1]:
        return x
    return np.asarray(np.linalg.qr(x, mode="r"))


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    result: np.ndarray = terms.sum(axis=1)
    return result


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(f"features are {x.shape} and {y.shape}; wanted (N, d) and (M, d), two vectors or more of each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features hold numbers that are not finite; look for broken clips")
    return x, y
