"""The arithmetic of every named variant, held to the numbers that the field's own codes give."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uniform.errors import InputError
from uniform.evaluation import class_scores, kernels
from uniform.evaluation.frechet import extrapolated, frechet, frechet_estimate
from uniform.evaluation.similarity import avh_score, desync, javis_score
from uniform.evaluation.vectors import Vectors, mean_interval

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "evaluation" / "arithmetic.json").read_text())
MOMENTS = {
    "tall": ((0, 1), (0.3, 1.2)),
    "uneven": ((0, 1), (0.1, 0.8)),
    "wide": ((0, 1), (0.2, 1)),
    "large_values": ((50, 9), (47, 7)),
}
EXACT = 1e-6
FLOAT32 = 1e-4


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = torch.Generator().manual_seed(zlib.crc32(f"input:{name}".encode()))
    return torch.randn(tuple(shape), generator=generator).numpy()


def _sets(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    golden = GOLDEN["sets"][name]
    one, two = (tuple(shape) for shape in golden["shapes"])
    tag = "large" if name == "large_values" else name
    (m1, s1), (m2, s2) = MOMENTS.get(name, ((0, 1), (0, 1)))
    x = _normal(f"eval.x.{tag}", one) * np.float32(s1) + np.float32(m1)
    y = x if name == "same" else _normal(f"eval.y.{tag}", two) * np.float32(s2) + np.float32(m2)
    return x, y, golden


@pytest.mark.parametrize("name", [*MOMENTS, "same"])
def test_frechet_of_both_covariances_equals_nine_codes(name: str) -> None:
    x, y, golden = _sets(name)
    over = {"n": ("stylegan_v", "cd_fvd")}
    for key, value in golden["frechet"].items():
        covariance = "n" if key in over["n"] else "n-1"
        rel = FLOAT32 if key in ("tats", "mm_diffusion") else EXACT
        one, two = (x.astype(np.float64), y.astype(np.float64)) if key == "tats_float64" else (x, y)
        assert frechet(one, two, covariance) == pytest.approx(value, rel=rel, abs=1e-4 if rel == FLOAT32 else 1e-9), key


@pytest.mark.parametrize("name", [*MOMENTS, "same"])
def test_kernel_distances_equal_their_codes(name: str) -> None:
    x, y, golden = _sets(name)
    wanted = golden["kernel"]

    assert kernels.mmd_poly(x, y) == pytest.approx(wanted["mm_diffusion_kvd_float64"], rel=EXACT)
    subsets = kernels.kid_subsets(x, y, subsets=3, size=8)
    for code in ("av_benchmark", "torch_fidelity"):
        published = wanted[f"{code}_kid_3subsets_of_8"]
        rel = FLOAT32 if name == "large_values" else EXACT  # the originals work in float32 here
        assert subsets.mean == pytest.approx(published["kernel_inception_distance_mean"], rel=rel)
        assert subsets.std == pytest.approx(published["kernel_inception_distance_std"], rel=FLOAT32)
    assert kernels.kid_stylegan_v(x, y, subsets=4) == pytest.approx(
        wanted["stylegan_v_kid_4subsets_seed0_x1000"], rel=FLOAT32
    )
    assert kernels.kad(x, y) == pytest.approx(wanted["kad_kadtk_float64"], rel=EXACT)
    assert kernels.kad(x, y) == pytest.approx(wanted["kad_kadtk_bandwidth_of_second"], rel=FLOAT32)
    of_first = kernels.median_distance(np.asarray(x, np.float64))
    assert of_first == pytest.approx(wanted["kad_median_first"], rel=EXACT)
    assert kernels.kad(x, y, of_first) == pytest.approx(wanted["kad_kadtk_bandwidth_of_first"], rel=FLOAT32)


@pytest.mark.parametrize("name", list(GOLDEN["logits"]))
def test_inception_scores_equal_their_codes(name: str) -> None:
    golden = GOLDEN["logits"][name]
    logits = _normal(f"eval.logits.{name}.generated", tuple(golden["shape"])) * np.float32(golden["scale"])

    for code in ("is_av_benchmark_10", "is_torch_fidelity_10"):
        score, std = class_scores.inception_score(logits)
        assert score.value == pytest.approx(golden[code]["inception_score_mean"], rel=EXACT)
        assert std == pytest.approx(golden[code]["inception_score_std"], rel=EXACT)
    one, nothing = class_scores.inception_score(logits, splits=1, shuffle="none")
    assert one.value == pytest.approx(golden["is_av_benchmark_1_unshuffled"]["inception_score_mean"], rel=EXACT)
    assert nothing == 0.0
    probabilities = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    assert class_scores.inception_score_mm_diffusion(probabilities) == pytest.approx(
        golden["is_mm_diffusion"], rel=FLOAT32
    )
    strict, strict_std = class_scores.inception_score(logits, shuffle="stylegan_v")
    published = golden["is_stylegan_v_10"]
    assert strict.value == pytest.approx(float(published["mean"]), rel=EXACT, nan_ok=True)
    assert strict_std == pytest.approx(float(published["std"]), rel=FLOAT32, nan_ok=True)


@pytest.mark.parametrize("name", list(GOLDEN["logits"]))
def test_divergences_equal_their_codes(name: str) -> None:
    golden = GOLDEN["logits"][name]
    generated, real = (
        _normal(f"eval.logits.{name}.{side}", tuple(golden["shape"])) * np.float32(golden["scale"])
        for side in ("generated", "real")
    )
    exact, capped = golden["kl_av_benchmark"], golden["kl_audioldm_eval"]

    assert class_scores.kl_exact(real, generated).mean() == pytest.approx(exact["kl_softmax"], rel=EXACT)
    assert class_scores.kl_sigmoid(real, generated).mean() == pytest.approx(exact["kl_sigmoid"], rel=EXACT)
    assert class_scores.kl_epsilon(real, generated).mean() == pytest.approx(
        capped["kullback_leibler_divergence_softmax"], rel=EXACT
    )
    assert class_scores.kl_sigmoid(real, generated, epsilon=True).mean() == pytest.approx(
        capped["kullback_leibler_divergence_sigmoid"], rel=EXACT
    )


@pytest.mark.parametrize("name", list(GOLDEN["javis"]))
def test_javis_and_avh_scores_equal_their_code(name: str) -> None:
    golden = GOLDEN["javis"][name]
    frames = _normal(f"eval.javis.{name}.frames", (golden["frames"], 64))
    windows, whole = _normal(f"eval.javis.{name}.windows", (8, 64)), _normal(f"eval.javis.{name}.whole", (1, 64))

    assert javis_score(frames, windows, golden["fps"]) == pytest.approx(golden["javis_score"], rel=EXACT)
    assert avh_score(frames, whole) == pytest.approx(golden["avh_score"], rel=EXACT, abs=1e-9)


def test_javis_score_is_refused_where_the_original_gives_nan() -> None:
    with pytest.raises(InputError, match="6 fps or more"):
        javis_score(np.ones((20, 4)), np.ones((8, 4)), 5.0)


def test_desync_is_the_mean_of_absolute_offsets() -> None:
    logits = np.zeros((2, 21))
    logits[0, 0] = logits[1, 12] = 5.0  # -2.0 s and 0.4 s

    assert desync(logits) == pytest.approx(1.2)


def test_the_interval_of_a_frechet_distance_is_as_wide_as_independent_sets_scatter() -> None:
    random = np.random.default_rng(3)

    def draw() -> tuple[Vectors, Vectors]:
        x, y = random.normal(size=(150, 6)), random.normal(size=(150, 6)) * 1.4 + 0.5
        return Vectors.of_rows(x), Vectors.of_rows(y)

    values = [frechet(x.values, y.values) for x, y in (draw() for _ in range(200))]
    widths = []
    for _ in range(5):
        estimate = frechet_estimate(*draw())
        assert estimate.low < estimate.value < estimate.high
        widths.append((estimate.high - estimate.low) / 3.92)
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.25)


def test_a_clip_of_many_alike_windows_counts_as_one() -> None:
    """Ten equal windows a clip carry no more information than one: the interval is that of the clips."""
    random = np.random.default_rng(4)
    x, y = random.normal(size=(60, 5)), random.normal(size=(60, 5)) + 1.0
    single = frechet_estimate(Vectors.of_rows(x), Vectors.of_rows(y), covariance="n")
    many = [Vectors.of_clips([np.repeat(row[None], 10, axis=0) for row in side]) for side in (x, y)]
    repeated = frechet_estimate(*many, covariance="n")

    assert repeated.value == pytest.approx(single.value, rel=1e-9)
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=1e-6)


def test_the_interval_of_a_kernel_distance_holds_its_value_and_covers_zero_for_equal_distributions() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(20):
        x, y = random.normal(size=(60, 6)), random.normal(size=(60, 6))
        estimate = kernels.mmd_estimate(Vectors.of_rows(x), Vectors.of_rows(y), kernels.polynomial)
        assert estimate.value == pytest.approx(kernels.mmd_poly(x, y), rel=1e-9)
        covered += estimate.low <= 0.0 <= estimate.high
    assert covered >= 17


def test_the_extrapolated_distance_of_equal_distributions_is_zero_at_n_and_at_twice_n() -> None:
    random = np.random.default_rng(6)
    for count in (256, 512):
        x, y = (Vectors.of_rows(random.normal(size=(count, 32))) for _ in range(2))
        whole = frechet_estimate(x, y)
        carried = extrapolated(x, y, interval=whole)
        assert carried.low <= 0.0 <= carried.high
        assert carried.high < whole.value
        assert carried.r_squared > 0.9


def test_the_bootstrap_of_a_mean_is_the_standard_error() -> None:
    values = np.random.default_rng(7).normal(size=400)
    estimate = mean_interval(values, draws=2000, seed=0)

    assert (estimate.high - estimate.low) / 3.92 == pytest.approx(values.std() / 20, rel=0.1)
    assert np.isnan(mean_interval(np.empty(0), draws=10, seed=0).value)


def test_equal_vectors_have_no_bandwidth() -> None:
    with pytest.raises(InputError, match="most of them are equal"):
        kernels.kad(np.random.default_rng(0).normal(size=(5, 3)), np.ones((5, 3)))


@pytest.mark.parametrize(("first", "second"), [((3, 4), (3, 5)), ((1, 4), (3, 4)), ((3,), (3, 4))])
def test_sets_that_are_no_sets_are_refused(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two vectors or more"):
        frechet(np.zeros(first), np.zeros(second))


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        frechet(np.full((3, 4), np.nan), np.zeros((3, 4)))
    with pytest.raises(InputError, match="not finite"):
        class_scores.kl_exact(np.full((3, 4), np.inf), np.zeros((3, 4)))


def test_kid_says_when_a_set_is_smaller_than_its_subsets() -> None:
    with pytest.raises(InputError, match="subsets of 9 vectors"):
        kernels.kid_subsets(np.zeros((8, 2)), np.zeros((9, 2)), subsets=2, size=9)


def test_frechet_of_known_gaussians() -> None:
    """N(0, 1) against N(2, 9) in each of 3 features: 3 (2^2 + (3 - 1)^2) = 24."""
    random = np.random.default_rng(8)
    x, y = random.normal(size=(100_000, 3)), 2 + 3 * random.normal(size=(100_000, 3))

    assert frechet(x, y) == pytest.approx(24.0, rel=0.02)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)
