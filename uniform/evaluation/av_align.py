"""AV-Align: do peaks of motion and onsets of audio coincide? Four published formulas, on times found elsewhere.

An onset and a peak match where they are less than one frame apart. A onsets, V peaks, I matches:

    v1      the code of 2023: every onset that has any peak near counts, I / (A + V - I). Many to one, so it can exceed
            1: four onsets at one peak score 4.0. For comparison with published tables only
    v2      the code since 2025: one to one, and peaks need a least motion
    pr      precision p of the onsets, recall r of the peaks: p r / (p + r - p r); bounded
    javis   v1 with 1e-6 added to the denominator (JavisDiT, JavisBench)

`uniform.evaluation.av_align_published` finds the times as published (librosa's onsets, Farneback's optical flow).
`motion` here is the mean change of brightness, for work without those libraries: its scores compare with each other
only. Print truth and shuffled pairs beside either.
"""

from collections.abc import Callable, Mapping

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
JAVIS_EPSILON = 1e-6
Formula = Callable[[np.ndarray, np.ndarray, float], float | None]


def motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change of brightness from frame to frame, (T,), of 255; the first value is given twice."""
    light = np.asarray(frames, np.float32) @ _LUMA
    change = np.abs(np.diff(light, axis=0)).mean(axis=(1, 2), dtype=np.float64)
    return np.concatenate([change[:1], change])


def motion_peaks(amount: np.ndarray, fps: float, least: float = 0.0) -> np.ndarray:
    """Times of strict local maxima of `amount` (T,) that reach `least`, in s."""
    inner = (amount[1:-1] > amount[:-2]) & (amount[1:-1] > amount[2:]) & (amount[1:-1] >= least)
    times: np.ndarray = (np.flatnonzero(inner) + 1) / fps
    return times


def av_align_v1(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float | None:
    """The formula of 2023; None where there is neither onset nor peak, infinity where its denominator is 0."""
    if not len(onsets_s) and not len(peaks_s):
        return None
    matches = _near(onsets_s, peaks_s, fps)
    union = len(onsets_s) + len(peaks_s) - matches
    return float(matches / union) if union else float("inf")


def av_align_v2(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float | None:
    """One-to-one matches over the union; None where there is neither onset nor peak.

    Each onset in turn takes the first free peak that is near, in the order of the lists.
    """
    if not len(onsets_s) and not len(peaks_s):
        return None
    free = np.ones(len(peaks_s), bool)
    matches = 0
    for onset in onsets_s:
        near = np.flatnonzero(free & (np.abs(np.asarray(peaks_s) - onset) < 1 / fps))
        if len(near):
            free[near[0]] = False
            matches += 1
    return matches / (len(onsets_s) + len(peaks_s) - matches)


def av_align_pr(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float | None:
    """Precision and recall joined; None where there is neither onset nor peak, 0 where one of them is missing."""
    if not len(onsets_s) and not len(peaks_s):
        return None
    if not len(onsets_s) or not len(peaks_s):
        return 0.0
    precision = _near(onsets_s, peaks_s, fps) / len(onsets_s)
    recall = _near(peaks_s, onsets_s, fps) / len(peaks_s)
    both = precision + recall - precision * recall
    return float(precision * recall / both) if both else 0.0


def av_align_javis(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float:
    """v1 with 1e-6 in the denominator; 0 where there is neither onset nor peak, as in its code."""
    matches = _near(onsets_s, peaks_s, fps)
    return float(matches / (len(onsets_s) + len(peaks_s) - matches + JAVIS_EPSILON))


FORMULAS: Mapping[str, Formula] = {
    "v1": av_align_v1,
    "v2": av_align_v2,
    "pr": av_align_pr,
    "javis": av_align_javis,
}


def _near(times_s: np.ndarray, others_s: np.ndarray, fps: float) -> int:
    """How many of `times_s` have one of `others_s` less than a frame away."""
    if not len(others_s):
        return 0
    return sum(bool(np.abs(np.asarray(others_s) - time).min() < 1 / fps) for time in times_s)
