"""What is measured of a clip without a network, kept like features: AV-Align's times, levels."""

from dataclasses import dataclass

import numpy as np

from uniform.evaluation.av_align import motion
from uniform.evaluation.metric_names import ALIGNMENT, BRIGHTNESS
from uniform.evaluation.reading import DecodedClip, levels

LEVELS = "levels"
CODE_VERSIONS = {ALIGNMENT: 1, BRIGHTNESS: 1, LEVELS: 1}
MEASURES = tuple(CODE_VERSIONS)
MAX_TIMES = 100_000


@dataclass(frozen=True, kw_only=True)
class MeasureNeeds:
    """Which streams a measure reads."""

    video: bool
    audio: bool


def measure(name: str, clip: DecodedClip) -> dict[str, np.ndarray]:
    """The arrays of one measure of one clip, float32. Raises ConfigError where a library is missing."""
    if name == LEVELS:
        return levels(clip)
    assert clip.frames is not None
    assert clip.channels is not None
    mono = np.ascontiguousarray(clip.channels.mean(axis=0))
    if name == ALIGNMENT:
        from uniform.evaluation.av_align_published import times

        found = times(clip.frames, mono, clip.rate_hz)
        arrays = {
            "onsets_s": found.onsets_s,
            "native_onsets_s": found.native_onsets_s,
            "flow_px": found.flow_px,
        }
    else:
        from uniform.evaluation.audio_events import audio_events, band_levels

        arrays = {"onsets_s": audio_events(band_levels(mono, clip.rate_hz)), "motion": motion(clip.frames)}
    return {key: as_pairs(value) for key, value in arrays.items()}


def as_pairs(values: np.ndarray) -> np.ndarray:
    """float64 (N,) as float32 (N, 2), the number and what rounding lost of it: a store of float32 keeps exact times."""
    whole = np.asarray(values, np.float64)[:MAX_TIMES]
    head = whole.astype(np.float32)
    pairs: np.ndarray = np.stack([head, (whole - head).astype(np.float32)], axis=1).reshape(-1, 2)
    return pairs


def from_pairs(pairs: np.ndarray) -> np.ndarray:
    """The float64 numbers of `as_pairs`."""
    result: np.ndarray = pairs.astype(np.float64).sum(axis=1)
    return result
