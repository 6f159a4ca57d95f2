"""AV-Align's times as published: onsets by librosa, motion by OpenCV's Farneback flow. Both are an optional extra.

Audio at 22,050 Hz mono (`librosa.load`'s default, soxr_hq), `onset_strength` and `onset_detect` with all defaults.
Frames to grey, Farneback flow between neighbours, mean magnitude over pixels; the first value is given twice. The
originals compute the first pair's flow twice instead; OpenCV 5 with more than one thread differs by 5e-12 between two
calls, so a peak at frame 1 comes and goes. Here it is computed once, on one thread.
"""

import importlib
import importlib.util
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from uniform.errors import ConfigError
from uniform.evaluation.av_align import FORMULAS, motion_peaks

RATE_HZ = 22_050
LEAST_FLOW_PX = 0.1
"""The floor of peaks since 2025 (v2)."""
INSTALL = "Install the extra: pip install 'uniform-toolkit[eval]'"
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
"""pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags."""


@dataclass(frozen=True, kw_only=True)
class AlignmentTimes:
    """Of one clip."""

    onsets_s: np.ndarray
    """float64 (A,), from the audio at 22,050 Hz."""
    native_onsets_s: np.ndarray
    """float64 (A',), from the audio at the file's own rate, as JavisBench reads it."""
    flow_px: np.ndarray
    """float64 (T,), mean flow a frame."""


def available() -> str | None:
    """None where both libraries are installed; otherwise what is missing and how to get it."""
    missing = [name for name in ("librosa", "cv2") if importlib.util.find_spec(name) is None]
    return (
        f"AV-Align as published needs {' and '.join(missing)}, which is not installed. {INSTALL}" if missing else None
    )


def times(frames: np.ndarray, waveform: np.ndarray, rate_hz: int) -> AlignmentTimes:
    """Onsets and flow of one clip.

    Args:
        frames: uint8 (T, H, W, 3) RGB, T >= 2.
        waveform: float32 (S,) mono at the file's own rate.
        rate_hz: of the waveform.
    Raises: ConfigError where librosa or OpenCV is not installed.
    """
    cv2 = _library("cv2")
    grey = np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames])
    return AlignmentTimes(
        onsets_s=onsets(at_22050(waveform, rate_hz), RATE_HZ),
        native_onsets_s=onsets(waveform, rate_hz),
        flow_px=flow(grey),
    )


def at_22050(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """The waveform at 22,050 Hz, as `librosa.load` gives it."""
    if rate_hz == RATE_HZ:
        return waveform
    resampled: np.ndarray = _library("librosa").resample(waveform, orig_sr=rate_hz, target_sr=RATE_HZ)
    return resampled


def onset_strength(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """librosa's onset envelope, one value each 512 samples."""
    envelope: np.ndarray = _library("librosa").onset.onset_strength(y=waveform, sr=rate_hz)
    return envelope


def onsets(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Onset times in s, ascending."""
    librosa = _library("librosa")
    envelope = onset_strength(waveform, rate_hz)
    frames = librosa.onset.onset_detect(onset_envelope=envelope, sr=rate_hz)
    found: np.ndarray = np.asarray(librosa.frames_to_time(frames, sr=rate_hz), np.float64)
    return found


def flow(grey: np.ndarray) -> np.ndarray:
    """Mean Farneback flow of each frame of uint8 (T, H, W), float64 (T,) in pixels; the first value stands twice."""
    cv2 = _library("cv2")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        amounts = []
        for before, after in itertools.pairwise(grey):
            field = cv2.calcOpticalFlowFarneback(before, after, None, *_FARNEBACK)
            magnitude, _ = cv2.cartToPolar(field[..., 0], field[..., 1])
            amounts.append(float(np.mean(magnitude)))
    finally:
        cv2.setNumThreads(threads)
    return np.array([amounts[0], *amounts]) if amounts else np.zeros(len(grey))


def score(variant: str, times_of: AlignmentTimes, fps: float) -> float | None:
    """AV-Align of one clip. None where there is neither onset nor peak and the formula has no value.

    Args:
        variant: v1, v2, pr, javis, or javis_native (onsets at the file's own rate, as JavisBench runs it).
    """
    native = variant == "javis_native"
    onset_times = times_of.native_onsets_s if native else times_of.onsets_s
    peaks = motion_peaks(times_of.flow_px, fps, LEAST_FLOW_PX if variant == "v2" else 0.0)
    return FORMULAS["javis" if native else variant](onset_times, peaks, fps)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"AV-Align as published needs {name}, which is not installed. {INSTALL}") from error
