"""Detect onsets of sounds in a waveform, their pitch and loudness, with an envelope and thresholds.

The envelope is the strongest of several bands, so that tones of all frequencies count equally. An onset is where the
envelope has half of its rise: a blur that is symmetric in time (a codec's window) does not move that point.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import ShortTimeFFT

_WINDOW_S = 0.016
_STEP_S = 0.004
_BANDS = 32
_SMOOTH_STEPS = 5
"""The envelope is averaged over 20 ms, since reconstructed phases make it fluctuate."""


# The rule of the other modality (video_events.py) is alike in form, but measures other things.
@dataclass(frozen=True, kw_only=True)
class AudioEventRule:
    """Thresholds of an onset. Levels are relative to the loudest moment of the clip."""

    least_rise: float = 0.25
    """Least rise of the envelope."""
    least_level: float = 0.3
    """Least level after the rise."""
    silence: float = 0.02
    """A clip whose loudest moment is below this amplitude has no events; full scale is 1."""
    refractory_s: float = 0.12
    """Least distance of two events; the one with the larger rise is kept."""
    rise_within_s: float = 0.06
    """The rise is measured over this time."""


@dataclass(frozen=True, kw_only=True)
class BandLevels:
    """Level of each frequency band at each time step."""

    amplitude: np.ndarray
    """float64 (bands, steps), full scale 1."""
    times_s: np.ndarray
    """float64 (steps,)."""
    centres_hz: np.ndarray
    """float64 (bands,)."""


def band_levels(waveform: np.ndarray, rate_hz: int) -> BandLevels:
    """Short-time levels of a waveform, float32 (S,) in [-1, 1], in logarithmic bands from 150 Hz up."""
    size, step = round(_WINDOW_S * rate_hz), round(_STEP_S * rate_hz)
    window = np.hanning(size + 1)[:-1]
    transform = ShortTimeFFT(window / window.sum() * 2, step, rate_hz, fft_mode="onesided")
    spectrum = np.abs(transform.stft(np.asarray(waveform, np.float64), p0=0, p1=len(waveform) // step + 1))
    edges = np.geomspace(150.0, rate_hz / 2, _BANDS + 1)
    band_of = np.searchsorted(edges, transform.f, side="right") - 1
    power = np.stack([(spectrum[band_of == band] ** 2).sum(axis=0) for band in range(_BANDS)])
    level = np.sqrt(
        power / 1.5
    )  # the energy of a tone is in the main lobe of the Hann window: this gives its amplitude
    return BandLevels(
        amplitude=uniform_filter1d(level, _SMOOTH_STEPS, axis=1, mode="constant"),
        times_s=np.arange(level.shape[1]) * step / rate_hz,
        centres_hz=np.sqrt(edges[:-1] * edges[1:]),
    )


def audio_events(
    levels: BandLevels, rule: AudioEventRule | None = None, band_hz: tuple[float, float] | None = None
) -> np.ndarray:
    """Detect the onsets of sounds.

    Args:
        levels: the audio, from `band_levels`.
        rule: thresholds; None takes the defaults.
        band_hz: use these frequencies only; levels stay relative to the whole clip's loudest moment.
    Returns: float64 (N,), seconds, ascending.
    """
    rule = rule or AudioEventRule()
    loudest = float(levels.amplitude.max(initial=0.0))
    if loudest < rule.silence:
        return np.empty(0)
    inside = np.ones(len(levels.centres_hz), bool) if band_hz is None else _between(levels.centres_hz, band_hz)
    envelope = levels.amplitude[inside].max(axis=0, initial=0.0) / loudest
    reach = max(1, round(rule.rise_within_s / _STEP_S))
    found: list[tuple[float, float]] = []  # (rise, time)
    for index in _peaks(envelope, reach):
        before = int(np.argmin(envelope[max(0, index - 2 * reach) : index + 1])) + max(0, index - 2 * reach)
        low, high = float(envelope[before]), float(envelope[index])
        if high >= rule.least_level and high - low >= rule.least_rise:
            found.append((high - low, _crossing(envelope, before, index, (low + high) / 2, levels.times_s)))
    return _spaced(found, rule.refractory_s)


def pitch_energies(
    waveform: np.ndarray, rate_hz: int, pitches_hz: Mapping[str, float], begin_s: float, length_s: float = 0.12
) -> dict[str, float]:
    """Energy within a quarter octave of each pitch, in a section of the waveform.

    Args:
        waveform: float32 (S,).
        rate_hz: samples per second.
        pitches_hz: the pitch classes.
        begin_s: start of the section, which is cut at the ends of the waveform.
        length_s: length of the section.
    """
    first = max(0, round(begin_s * rate_hz))
    section = np.asarray(waveform[first : first + round(length_s * rate_hz)], np.float64)
    if len(section) < 8:
        return dict.fromkeys(pitches_hz, 0.0)
    spectrum = np.abs(np.fft.rfft(section * np.hanning(len(section)), 8 * len(section))) ** 2
    frequencies = np.fft.rfftfreq(8 * len(section), 1 / rate_hz)
    return {
        name: float(spectrum[_between(frequencies, (pitch * 2**-0.25, pitch * 2**0.25))].sum())
        for name, pitch in pitches_hz.items()
    }


def loudness(waveform: np.ndarray, rate_hz: int, fps: float, frames: int) -> np.ndarray:
    """Root mean square of the audio around the time of each video frame, (frames,), full scale 1."""
    half = rate_hz / fps
    squares = np.concatenate([[0.0], np.cumsum(np.asarray(waveform, np.float64) ** 2)])
    middles = np.arange(frames) * rate_hz / fps
    first = np.clip(np.round(middles - half), 0, len(waveform)).astype(int)
    last = np.clip(np.round(middles + half), 0, len(waveform)).astype(int)
    result: np.ndarray = np.sqrt((squares[last] - squares[first]) / np.maximum(last - first, 1))
    return result


def _between(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    result: np.ndarray = (values >= limits[0]) & (values <= limits[1])
    return result


def _peaks(envelope: np.ndarray, reach: int) -> list[int]:
    """Indices of maxima within `reach` steps on both sides."""
    padded = np.pad(envelope, reach, constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return [int(index) for index in np.flatnonzero((envelope >= highest) & (envelope > 0))]


def _crossing(envelope: np.ndarray, before: int, after: int, level: float, times_s: np.ndarray) -> float:
    """Last time in before..after at which the envelope crosses `level` upwards, by linear interpolation."""
    index = after
    while index > before and envelope[index - 1] > level:
        index -= 1
    if index == before:
        return float(times_s[before])
    low, high = envelope[index - 1], envelope[index]
    share = (level - low) / (high - low) if high > low else 0.0
    return float(times_s[index - 1] + share * (times_s[index] - times_s[index - 1]))


def _spaced(found: list[tuple[float, float]], refractory_s: float) -> np.ndarray:
    """Times, ascending, no two nearer than `refractory_s`; the larger rise is kept."""
    kept: list[float] = []
    for _, time in sorted(found, reverse=True):
        if all(abs(time - other) >= refractory_s for other in kept):
            kept.append(time)
    return np.array(sorted(kept))
