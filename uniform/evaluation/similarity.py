"""Scores of a clip's embeddings against each other: cosines, JavisScore, AVHScore, and Synchformer's offsets.

T frames, W windows, d features, C = 21 offset classes.
"""

import numpy as np

from uniform.errors import InputError

JAVIS_WINDOW_S = 0.5
JAVIS_LOWEST = 0.4
OFFSETS_S = np.linspace(-2.0, 2.0, 21)
"""The classes of Synchformer, seconds."""


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows, (N,), of (N, d) and (N, d) or (1, d)."""
    result: np.ndarray = (_unit(first) * _unit(second)).sum(axis=-1)
    return result


def avh_score(frames: np.ndarray, audio: np.ndarray) -> float:
    """Mean cosine of every frame's embedding, (T, d), with the whole audio's, (d,) or (1, d)."""
    return float(cosines(frames, np.atleast_2d(audio)).mean())


def javis_score(frames: np.ndarray, windows: np.ndarray, fps: float) -> float:
    """Mean over half-second windows of the mean of the lowest int(0.4 n) cosines of n frames with their audio.

    A window has int(0.5 fps) frames beside 0.5 s of audio; at 17 fps the eighth begins at 3.29 s in the video and at
    3.5 s in the audio. This is the published rule, kept with its drift.
    Args:
        frames: embeddings (T, d). windows: of the audio, (W, d). fps: of the frames.
    Raises: InputError below 6 fps, where int(0.4 n) is 0 and the original gives NaN.
    """
    each = int(JAVIS_WINDOW_S * fps)
    if int(each * JAVIS_LOWEST) < 1:
        raise InputError(f"JavisScore at {fps:g} fps: no frame of a window of {each} would count; wanted 6 fps or more")
    used = min(len(windows), -(-len(frames) // each))
    scores = []
    for number in range(used):
        values = cosines(frames[number * each : (number + 1) * each], windows[number : number + 1])
        lowest = int(len(values) * JAVIS_LOWEST)
        scores.append(np.sort(values)[:lowest].mean() if lowest else np.nan)
    if not scores or not np.isfinite(scores).all():
        raise InputError(f"JavisScore: {len(frames)} frames and {len(windows)} audio windows leave a window empty")
    return float(np.mean(scores))


def desync(logits: np.ndarray) -> float:
    """Mean |offset| in seconds over the segments' most likely class, of logits (segments, C) or (C,)."""
    rows = np.atleast_2d(logits)
    if rows.shape[-1] != len(OFFSETS_S):
        raise InputError(f"offset logits are {rows.shape}; wanted (segments, {len(OFFSETS_S)})")
    return float(np.abs(OFFSETS_S[rows.argmax(axis=-1)]).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    numbers = np.asarray(rows, np.float64)
    result: np.ndarray = numbers / np.maximum(np.linalg.norm(numbers, axis=-1, keepdims=True), 1e-12)
    return result
