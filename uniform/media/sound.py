"""Decoded sound of any kind to one mono track on the clip's clock, silent wherever the source says nothing.

Sound is kept in runs: samples that follow each other without a gap. Each run is placed by its first timestamp, so that
sound that starts late, stops early or pauses lies where a player would play it. A gap opens where a timestamp leaves
the count of samples by more than `GAP_S`; smaller differences are the rounding of container clocks.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from uniform.errors import MediaError

GAP_S = Fraction(3, 100)
WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "BL": 0.5, "BR": 0.5, "SL": 0.5, "SR": 0.5, "BC": 0.5, "LFE": 0.0}
"""Share of each speaker in the mono sum before the shares are scaled to one (ITU-R BS.775, as FFmpeg's downmix)."""
CANCELLED = 0.1
"""The mono sum has cancelled itself out where its level is below this part (-20 dB) of the loudest channel's."""
MIN_NAMED_GAP_MS = 10
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000


@dataclass
class Run:
    """Samples without a gap."""

    start_s: Fraction
    rate_hz: int
    speakers: tuple[str, ...]
    parts: list[NDArray[np.float32]] = field(default_factory=list)
    samples: int = 0

    @property
    def end_s(self) -> Fraction:
        """Where the next sample would lie."""
        return self.start_s + Fraction(self.samples, self.rate_hz)


class SoundCollector:
    """Takes decoded audio frames in time order and keeps those that touch the clip.

    Args:
        start_s, end_s: the clip on the source's clock.
    """

    def __init__(self, start_s: Fraction, end_s: Fraction) -> None:
        self._start_s, self._end_s = start_s, end_s
        self._runs: list[Run] = []
        self._next_s: Fraction | None = None
        self._to_float: av.AudioResampler | None = None
        self._form: tuple[object, ...] = ()

    @property
    def end_s(self) -> Fraction | None:
        """End of the last frame taken, in the clip or not; None before the first."""
        return self._next_s

    def add(self, frame: av.AudioFrame, start_s: Fraction | None) -> None:
        """Take a frame that starts at `start_s` on the source's clock, or right after the last one where None.

        Raises: MediaError "unsupported" for a sample rate that no ear needs.
        """
        if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
            raise MediaError("unsupported", f"sample rate {frame.sample_rate} Hz")
        expected = self._next_s
        if start_s is None or (expected is not None and abs(start_s - expected) <= GAP_S):
            start_s = expected if expected is not None else self._start_s
        self._next_s = start_s + Fraction(frame.samples, frame.sample_rate)
        if self._next_s <= self._start_s - 1 or start_s >= self._end_s + 1:  # a second more feeds the resampler
            return
        speakers = tuple(channel.name for channel in frame.layout.channels)
        run = self._runs[-1] if self._runs else None
        if run is None or (run.rate_hz, run.speakers) != (frame.sample_rate, speakers) or run.end_s != start_s:
            run = Run(start_s, frame.sample_rate, speakers)
            self._runs.append(run)
        samples = self._as_float(frame)
        run.parts.append(samples)
        run.samples += samples.shape[1]

    def render(self, rate_hz: int) -> tuple[NDArray[np.float32], list[str]]:
        """The clip's sound, (samples,) mono, and remarks on what was done to it.

        Raises: MediaError "no_audio" where no sound lies inside the clip.
        """
        samples = round((self._end_s - self._start_s) * rate_hz)
        waveform = np.zeros(samples, dtype=np.float32)
        covered = np.zeros(samples, dtype=bool)
        remarks: list[str] = []
        channel = self._channel_instead_of_sum()
        if channel is not None:
            remarks.append(f"the channels cancel each other out; channel {channel} is used alone")
        for run in self._runs:
            mono = _resample(_mix(run, channel), run.rate_hz, rate_hz)
            first = round((run.start_s - self._start_s) * rate_hz)
            begin, end = max(0, first), min(samples, first + len(mono))
            if begin < end:
                waveform[begin:end] = mono[begin - first : end - first]
                covered[begin:end] = True
        if not covered.any():
            raise MediaError("no_audio", "the sound track holds nothing inside the clip")
        return waveform, remarks + _remarks_on_gaps(covered, rate_hz)

    def _as_float(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        """(channels, samples), full scale = 1.0."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._to_float is None or form != self._form:
            self._to_float, self._form = av.AudioResampler(format="fltp"), form
        frame.pts = None
        parts: list[Any] = [part.to_ndarray() for part in self._to_float.resample(frame)]
        joined: NDArray[np.float32] = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)
        return np.nan_to_num(joined, nan=0.0, posinf=1.0, neginf=-1.0)

    def _channel_instead_of_sum(self) -> int | None:
        """The loudest channel's number where the mono sum is far below it (antiphase stereo); None where it is not."""
        if not self._runs or len({run.speakers for run in self._runs}) > 1 or len(self._runs[0].speakers) < 2:
            return None
        channels = np.concatenate([_inside(run, self._start_s, self._end_s) for run in self._runs], axis=1)
        if channels.shape[1] == 0:
            return None
        levels = np.sqrt(np.mean(np.square(channels, dtype=np.float64), axis=1)) * (_weights(self._runs[0]) > 0)
        mono = np.sqrt(np.mean(np.square(_weights(self._runs[0]) @ channels, dtype=np.float64)))
        loudest = int(np.argmax(levels))
        share = float(_weights(self._runs[0])[loudest])  # a lone voice in 5.1 is no cancellation
        return loudest if mono < CANCELLED * share * levels[loudest] else None


def _inside(run: Run, start_s: Fraction, end_s: Fraction) -> NDArray[np.float32]:
    first = max(0, round((start_s - run.start_s) * run.rate_hz))
    last = max(0, round((end_s - run.start_s) * run.rate_hz))
    return np.concatenate(run.parts, axis=1)[:, first:last]


def _weights(run: Run) -> NDArray[np.float32]:
    shares = np.array([WEIGHTS.get(speaker, 0.5) for speaker in run.speakers], dtype=np.float32)
    if not shares.any():
        shares[:] = 1.0
    scaled: NDArray[np.float32] = shares / shares.sum()
    return scaled


def _mix(run: Run, channel: int | None) -> NDArray[np.float32]:
    samples = np.concatenate(run.parts, axis=1)
    mono: NDArray[np.float32] = samples[channel] if channel is not None else _weights(run) @ samples
    return mono


def _resample(mono: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    if from_hz == to_hz or len(mono) == 0:
        return mono
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_hz)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), format="fltp", layout="mono")
    frame.sample_rate = from_hz
    parts: list[Any] = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(parts)


def _remarks_on_gaps(covered: NDArray[np.bool_], rate_hz: int) -> list[str]:
    """Where the clip is silent because the source has no sound there; gaps too short to matter are not named."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~covered, [False]]).astype(np.int8)))
    remarks = []
    for begin, end in edges.reshape(-1, 2).tolist():
        milliseconds, at = round(1000 * (end - begin) / rate_hz), round(1000 * begin / rate_hz)
        if milliseconds < MIN_NAMED_GAP_MS:
            continue
        if begin == 0:
            remarks.append(f"audio starts {milliseconds:,} ms late")
        elif end == len(covered):
            remarks.append(f"audio ends {milliseconds:,} ms early")
        else:
            remarks.append(f"audio pauses for {milliseconds:,} ms at {at:,} ms")
    return remarks
