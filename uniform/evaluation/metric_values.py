"""One metric on features: of two sets, of pairs, or of single clips, with its interval over clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from uniform.errors import InputError
from uniform.evaluation import class_scores, kernels
from uniform.evaluation.av_align import FORMULAS, motion_peaks
from uniform.evaluation.av_align_published import AlignmentTimes, score
from uniform.evaluation.class_scores import Shuffle
from uniform.evaluation.frechet import Covariance, Extrapolated, extrapolated, frechet_estimate
from uniform.evaluation.measures import from_pairs
from uniform.evaluation.metric_names import ALIGNMENT, Metric
from uniform.evaluation.protocol import Statistics
from uniform.evaluation.similarity import avh_score, cosines, desync, javis_score
from uniform.evaluation.vectors import Estimate, Vectors

Arrays = Mapping[str, np.ndarray]
"""Features of one clip, by the extractor's outputs."""
BRIGHTNESS_LEAST = 0.5
"""Of 255: the floor of brightness peaks in v2."""


@dataclass(frozen=True, kw_only=True)
class SetValue:
    """A metric of whole sets."""

    estimate: Estimate
    vectors: int
    """Of the evaluated set."""
    extrapolated: Extrapolated | None = None
    std: float | None = None
    """Over parts or subsets, where the metric has them."""
    notes: tuple[str, ...] = ()


def set_value(
    metric: Metric, evaluated: Sequence[Arrays], real: Sequence[Arrays], statistics: Statistics, *, carry: bool = False
) -> SetValue:
    """A distance of two sets, or an inception score of the first.

    Args:
        evaluated, real: features of each clip.
        carry: also carry a Frechet distance to 1 / N = 0.
    Raises: InputError for too few clips, or features that no value can be made of.
    """
    draws, seed = statistics.draws, statistics.seed
    if metric.form == "inception":
        return _inception(metric, evaluated, statistics)
    x, y = (Vectors.of_clips([clip[metric.outputs[0]] for clip in side]) for side in (evaluated, real))
    notes: tuple[str, ...] = ()
    if metric.form == "kernel":
        estimate = kernels.mmd_estimate(x, y, kernels.polynomial, draws=draws, seed=seed)
        return SetValue(estimate=estimate, vectors=x.count)
    if metric.form == "kid":
        subsets = kernels.kid_subsets(
            x.values, y.values, subsets=statistics.kid_subsets, size=statistics.kid_subset_size
        )
        whole = kernels.mmd_estimate(x, y, kernels.polynomial, draws=draws, seed=seed)
        half = (whole.high - whole.low) / 2
        estimate = Estimate(value=subsets.mean, low=subsets.mean - half, high=subsets.mean + half)
        return SetValue(estimate=estimate, vectors=x.count, std=subsets.std)
    if metric.form == "kad":
        kernel = kernels.gaussian(kernels.median_distance(x.values))
        estimate = kernels.mmd_estimate(x, y, kernel, scale=kernels.KAD_SCALE, draws=draws, seed=seed)
        return SetValue(estimate=estimate, vectors=x.count)
    covariance = cast(Covariance, metric.variant)
    estimate = frechet_estimate(x, y, covariance=covariance, draws=draws, seed=seed)
    fewest, width = min(x.count, y.count), x.values.shape[1]
    if fewest <= width:
        notes = (f"{fewest} vectors of {width} features: the covariances are singular; prefer the kernel form",)
    carried = None
    if carry and statistics.extrapolate and min(x.clips, y.clips) >= 4:
        carried = extrapolated(x, y, covariance=covariance, seed=seed, interval=estimate)
    return SetValue(estimate=estimate, vectors=x.count, extrapolated=carried, notes=notes)


def pair_values(metric: Metric, generated: Sequence[Arrays], real: Sequence[Arrays]) -> np.ndarray:
    """Divergence of each generated clip from its real partner, float64 (N,)."""
    x, y = (np.stack([one_row(clip[metric.outputs[0]]) for clip in side]) for side in (generated, real))
    if metric.form == "kl_exact":
        return class_scores.kl_exact(y, x)
    if metric.form == "kl_eps6":
        return class_scores.kl_epsilon(y, x)
    return class_scores.kl_sigmoid(y, x)


def clip_value(metric: Metric, video: Arrays, audio: Arrays, fps: float) -> float | None:
    """A clip's video against its audio or text; None where the metric has no value for it.

    Args:
        video, audio: features of one clip; of two different ones for shuffled pairs.
        fps: of the frames.
    Raises: InputError where the features do not allow the metric.
    """
    first, second = metric.outputs[0], metric.outputs[-1]
    if metric.form == "cosine":
        return float(cosines(np.atleast_2d(video[first]), np.atleast_2d(audio[second])).mean())
    if metric.form == "avh":
        return avh_score(np.atleast_2d(video[first]), audio[second])
    if metric.form == "javis":
        return javis_score(video[first], audio[second], fps)
    if metric.form == "desync":
        if video is not audio:
            return None  # the network has seen both streams of one clip together
        return desync(video[first])
    return _alignment(metric, video, audio, fps)


def one_row(values: np.ndarray) -> np.ndarray:
    """The logits of a clip: as they are, or the mean over its windows."""
    return values if values.ndim == 1 else np.asarray(values.mean(axis=0))


def _inception(metric: Metric, evaluated: Sequence[Arrays], statistics: Statistics) -> SetValue:
    logits = np.stack([one_row(clip[metric.outputs[0]]) for clip in evaluated]) if evaluated else np.empty((0, 0))
    shuffle = cast(Shuffle, metric.variant)
    splits = 1 if shuffle == "none" else class_scores.SPLITS
    estimate, std = class_scores.inception_score(
        logits, splits=splits, shuffle=shuffle, draws=statistics.draws, seed=statistics.seed
    )
    if shuffle == "none":
        probabilities = class_scores.softmax(logits)
        value = class_scores.inception_score_mm_diffusion(probabilities)
        shift = value - estimate.value
        estimate = Estimate(value=value, low=estimate.low + shift, high=estimate.high + shift)
    return SetValue(estimate=estimate, vectors=len(logits), std=std)


def _alignment(metric: Metric, video: Arrays, audio: Arrays, fps: float) -> float | None:
    if metric.extractor == ALIGNMENT:
        times = AlignmentTimes(
            onsets_s=from_pairs(audio["onsets_s"]),
            native_onsets_s=from_pairs(audio["native_onsets_s"]),
            flow_px=from_pairs(video["flow_px"]),
        )
        value = score(metric.variant, times, fps)
    else:
        least = BRIGHTNESS_LEAST if metric.variant == "v2" else 0.0
        peaks = motion_peaks(video["motion"].astype(np.float64).sum(axis=1), fps, least)
        value = FORMULAS[metric.variant](from_pairs(audio["onsets_s"]), peaks, fps)
    if value is not None and not np.isfinite(value):
        raise InputError(f"{metric.name} has no finite value: every onset and peak matched another")
    return value
