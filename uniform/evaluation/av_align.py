"""AV-Align: do peaks of motion and onsets of sound coincide? Three published formulas, on times found elsewhere.

An onset and a peak match where they are less than one frame apart. A onsets, V peaks, I matches:

    v1   the code of 2023: every onset that has any peak near counts, I / (A + V - I). Many to one, so it can exceed 1:
         four onsets at one peak score 4.0. For comparison with published tables only
    v2   the code since 2025: one to one, and peaks need a least motion
    pr   precision p of the onsets, recall r of the peaks: p r / (p + r - p r); bounded

Published numbers use librosa's onsets and Farneback's optical flow. The motion here is the mean change of brightness,
so numbers compare with each other only; print truth and shuffled pairs beside them.
"""

import numpy as np

from uniform.evaluation.event_f1 import match_times

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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
    matches = sum(bool(len(peaks_s)) and np.abs(peaks_s - onset).min() < 1 / fps for onset in onsets_s)
    union = len(onsets_s) + len(peaks_s) - matches
    return float(matches / union) if union else float("inf")


def av_align_v2(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float | None:
    """One-to-one matches over the union; None where there is neither onset nor peak."""
    if not len(onsets_s) and not len(peaks_s):
        return None
    matches = _matches(onsets_s, peaks_s, fps)
    return matches / (len(onsets_s) + len(peaks_s) - matches)


def av_align_pr(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> float | None:
    """Precision and recall joined; None where there is neither onset nor peak, 0 where one of them is missing."""
    if not len(onsets_s) and not len(peaks_s):
        return None
    if not len(onsets_s) or not len(peaks_s):
        return 0.0
    precision = np.mean([np.abs(peaks_s - onset).min() < 1 / fps for onset in onsets_s])
    recall = np.mean([np.abs(onsets_s - peak).min() < 1 / fps for peak in peaks_s])
    both = precision + recall - precision * recall
    return float(precision * recall / both) if both else 0.0


def _matches(onsets_s: np.ndarray, peaks_s: np.ndarray, fps: float) -> int:
    return len(match_times(onsets_s, peaks_s, np.nextafter(1 / fps, 0.0)))
