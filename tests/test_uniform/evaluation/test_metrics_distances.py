"""Distances and scores, held to closed forms and to SciPy's matrix root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from uniform.errors import InputError
from uniform.evaluation.metrics import extrapolated, frechet, inception_score, mmd_poly, paired_kl

RANDOM = np.random.default_rng(0)


def _reference(x: np.ndarray, y: np.ndarray) -> float:
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2).real))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 12), (60, 80, 40), (500, 90, 90)])
def test_frechet_equals_the_matrix_root(n: int, m: int, d: int) -> None:
    mix = RANDOM.normal(size=(d, d)) / np.sqrt(d)
    x, y = RANDOM.normal(size=(n, d)), RANDOM.normal(size=(m, d)) @ mix + 0.3

    assert frechet(x, y) == pytest.approx(_reference(x, y), rel=1e-6)


def test_frechet_with_fewer_vectors_than_features_equals_the_eigenvalues() -> None:
    x, y = RANDOM.normal(size=(20, 50)), 1.3 * RANDOM.normal(size=(30, 50))
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross

    assert frechet(x, y) == pytest.approx(wanted, rel=1e-6)


def test_frechet_of_known_gaussians() -> None:
    """N(0, 1) against N(2, 9) in each of 3 features: 3 (2^2 + (3 - 1)^2) = 24."""
    x, y = RANDOM.normal(size=(100_000, 3)), 2 + 3 * RANDOM.normal(size=(100_000, 3))

    assert frechet(x, y) == pytest.approx(24.0, rel=0.02)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    x, y = RANDOM.normal(size=(600, 40)), RANDOM.normal(size=(600, 40))

    assert frechet(x, y) > 1.0
    assert abs(extrapolated(x, y)) < 0.25 * frechet(x, y)


def test_mmd_is_unbiased_and_sees_a_shift() -> None:
    same = [mmd_poly(RANDOM.normal(size=(60, 8)), RANDOM.normal(size=(60, 8))) for _ in range(60)]
    moved = [mmd_poly(RANDOM.normal(size=(60, 8)), RANDOM.normal(size=(60, 8)) + 0.5) for _ in range(20)]

    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(60)
    assert min(moved) > np.mean(same) + 2 * np.std(same)


def test_mmd_by_hand() -> None:
    """d = 1: kernels (xy + 1)^3 of x in {0, 1}, y in {1, 2}: 1 + 27 - 2 * mean(1, 1, 8, 27) = 9.5."""
    assert mmd_poly(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(1 + 27 - 2 * 37 / 4)


def test_inception_score_lies_between_one_and_the_number_of_classes() -> None:
    sure = np.eye(4)[np.arange(400) % 4]
    unsure = np.full((400, 4), 0.25)

    assert inception_score(sure, splits=1)[0] == pytest.approx(4.0)
    assert inception_score(unsure)[0] == pytest.approx(1.0)
    with pytest.raises(InputError, match="sum to 1"):
        inception_score(2 * sure)


def test_paired_kl_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    wanted = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)

    assert paired_kl(np.log([p, p]), np.log([q, q]) + 7.0) == pytest.approx(wanted)
    assert paired_kl(np.log([p, q]), np.log([p, q])) == pytest.approx(0.0)


def test_unfit_features_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 4\) and \(3, 5\)"):
        frechet(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(InputError, match="not finite"):
        frechet(np.full((3, 4), np.nan), np.zeros((3, 4)))
