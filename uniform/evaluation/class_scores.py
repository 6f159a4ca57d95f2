"""Inception scores and paired divergences of class logits, as the field's codes compute them.

    IS   exp(mean KL(p(c | x) || p(c))), over parts [i N / splits, (i + 1) N / splits) of a shuffled set
    KL   mean KL(p_real || p_generated) over pairs of one clip

Softmax over AudioSet's labels is the convention, though a clip may have several. N logit vectors, C classes.
"""

from typing import Literal

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.vectors import Estimate, linear_interval

Shuffle = Literal["torch_fidelity", "stylegan_v", "none"]
"""torch_fidelity: RandomState(2020).permutation (also av-benchmark, audioldm_eval); stylegan_v: RandomState(42)."""
EPSILON = 1e-6
"""What audioldm_eval adds inside its logarithms."""
MM_DIFFUSION_EPSILON = 1e-7
SPLITS = 10


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C)."""
    result: np.ndarray = np.exp(log_softmax(logits))
    return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, (N, C), float64."""
    numbers = np.asarray(logits, np.float64)
    shifted = numbers - numbers.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def inception_score(
    logits: np.ndarray, *, splits: int = SPLITS, shuffle: Shuffle = "torch_fidelity", draws: int = 1000, seed: int = 0
) -> tuple[Estimate, float]:
    """The score with its interval over clips, and the deviation over the parts.

    The score rises with the vectors of a part, so compare at one N only. With `shuffle` "stylegan_v" a probability of 0
    makes the score NaN, as in its original; the others take it as a contribution of 0.
    Args:
        logits: (N, C), one row a clip.
    Raises: InputError for fewer rows than parts or numbers that are not finite.
    """
    rows = _checked_logits(logits)
    if len(rows) < splits or splits < 1:
        raise InputError(f"{len(rows)} clips for an inception score of {splits} parts; wanted one a part or more")
    strict = shuffle == "stylegan_v"
    order = _order(len(rows), shuffle)
    log_p = log_softmax(rows)[order]
    p = np.exp(log_p)
    if strict:
        p = p.astype(np.float32).astype(np.float64)  # its network gives float32 probabilities, which may be 0
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
    scores, influence = [], np.zeros(len(rows))
    for part in range(splits):
        rows_of = slice(part * len(rows) // splits, (part + 1) * len(rows) // splits)
        divergence = _divergence(p[rows_of], log_p[rows_of])
        score = float(np.exp(divergence.mean()))
        scores.append(score)
        with np.errstate(invalid="ignore"):
            influence[order[rows_of]] = score * divergence / len(divergence) / splits
    value = float(np.mean(scores))
    if not np.isfinite(value):
        return Estimate(value=value, low=float("nan"), high=float("nan")), float("nan")
    return linear_interval(value, [influence], draws, seed), float(np.std(scores))


def inception_score_mm_diffusion(probabilities: np.ndarray) -> float:
    """One part, no shuffle, 1e-7 inside the logarithms."""
    p = np.asarray(probabilities, np.float64)
    mean = p.mean(axis=0, keepdims=True)
    terms = p * (np.log(p + MM_DIFFUSION_EPSILON) - np.log(mean + MM_DIFFUSION_EPSILON))
    return float(np.exp(terms.sum(axis=1).mean()))


def kl_exact(real_logits: np.ndarray, generated_logits: np.ndarray) -> np.ndarray:
    """KL(p_real || p_generated) of each pair, (N,), from log-softmax (av-benchmark)."""
    log_p, log_q = log_softmax(_checked_logits(real_logits)), log_softmax(_checked_logits(generated_logits))
    _require_pairs(log_p, log_q)
    result: np.ndarray = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return result


def kl_epsilon(real_logits: np.ndarray, generated_logits: np.ndarray) -> np.ndarray:
    """As audioldm_eval: 1e-6 inside the logarithm of the generated side, so that no pair exceeds about 13.8."""
    p, q = softmax(_checked_logits(real_logits)), softmax(_checked_logits(generated_logits))
    _require_pairs(p, q)
    return _kl_plus(p, q)


def kl_sigmoid(real_logits: np.ndarray, generated_logits: np.ndarray, *, epsilon: bool = False) -> np.ndarray:
    """The same over independent labels: sigmoid in place of softmax, summed over classes."""
    x, y = _checked_logits(real_logits), _checked_logits(generated_logits)
    _require_pairs(x, y)
    if epsilon:
        return _kl_plus(np.exp(_log_sigmoid(x)), np.exp(_log_sigmoid(y)))
    result: np.ndarray = (np.exp(_log_sigmoid(x)) * (_log_sigmoid(x) - _log_sigmoid(y))).sum(axis=1)
    return result


def _kl_plus(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q + EPSILON)), 0.0)
    result: np.ndarray = terms.sum(axis=1)
    return result


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = -np.logaddexp(0.0, -logits)
    return result


def _divergence(p: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * (log_p - np.log(p.mean(axis=0, keepdims=True)))
    result: np.ndarray = terms.sum(axis=1)
    return result


def _order(count: int, shuffle: Shuffle) -> np.ndarray:
    if shuffle == "none":
        return np.arange(count)
    if shuffle == "torch_fidelity":
        return np.random.RandomState(2020).permutation(count)
    order = np.arange(count)
    np.random.RandomState(42).shuffle(order)
    return order


def _checked_logits(logits: np.ndarray) -> np.ndarray:
    rows = np.asarray(logits, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"logits are {rows.shape}; wanted (N, C)")
    if not np.isfinite(rows).all():
        raise InputError("logits hold numbers that are not finite; look for broken clips")
    return rows


def _require_pairs(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise InputError(f"{first.shape} real and {second.shape} generated logits; wanted pairs")
