"""Collect decoded audio as one mono waveform on the clip's clock, with silence where the source has none.

Audio is kept in runs: samples that follow each other without a gap. Each run is placed by its first timestamp, so that
audio that starts late, stops early or pauses is where a player would play it. A gap starts where a timestamp differs
from the count of samples by more than `GAP_NS`; smaller differences are the rounding of container clocks.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from uniform.errors import MediaError
from uniform.media.frame_sampling import SECOND
from uniform.media.notes import AUDIO_FORMS, MONO_CHANNEL, NOT_FINITE, Note, audio_gap

GAP_NS = 30 * SECOND // 1000
WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "BL": 0.5, "BR": 0.5, "SL": 0.5, "SR": 0.5, "BC": 0.5, "LFE": 0.0}
"""Weight of each speaker in the mono mix, before the weights are scaled to sum 1 (ITU-R BS.775, FFmpeg's downmix)."""
CANCELLED = 0.1
"""The mono mix counts as cancelled where its level is below this share (-20 dB) of the loudest channel's."""
MIN_NAMED_GAP_MS = 10
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000


@dataclass
class Run:
    """Consecutive samples without a gap, as decoded."""

    start_ns: int
    form: tuple[int, str, tuple[str, ...]]
    """Rate in Hz, sample format, names of the speakers."""
    queue: av.AudioFifo = field(default_factory=av.AudioFifo)
    not_finite: int = 0
    """Samples that are no finite numbers; counted when `channels` is first read."""

    @property
    def rate_hz(self) -> int:
        """Samples per second."""
        return self.form[0]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the channels, in their order."""
        return self.form[2]

    @cached_property
    def channels(self) -> NDArray[np.float32]:
        """(channels, samples), full scale = 1.0, finite. Do not add samples afterwards."""
        whole = self.queue.read()
        if whole is None:
            return np.zeros((len(self.speakers), 0), np.float32)
        joined: NDArray[Any] = whole.to_ndarray()
        if not self.form[1].endswith("p"):  # packed: one row of interleaved channels
            joined = joined.reshape(-1, len(self.speakers)).T
        if joined.dtype.kind == "u":
            return ((joined.astype(np.float32) - 128) / 128).astype(np.float32)
        if joined.dtype.kind == "i":
            return (joined / -float(np.iinfo(joined.dtype).min)).astype(np.float32)
        self.not_finite = int(joined.size - np.isfinite(joined).sum())
        return np.nan_to_num(joined.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)


class AudioCollector:
    """Collects decoded audio frames in time order and keeps those that overlap the clip.

    Args:
        start_ns, end_ns: the clip on the source's clock.
    """

    def __init__(self, start_ns: int, end_ns: int) -> None:
        self._start_ns, self._end_ns = start_ns, end_ns
        self._runs: list[Run] = []
        self._run_open = False
        self.end_ns: int | None = None
        """End of the last frame, inside the clip or not; None before the first."""

    def add(self, frame: av.AudioFrame, start_ns: int | None) -> None:
        """Add a frame that starts at `start_ns` on the source's clock, or directly after the last one where None.

        Raises: MediaError "unsupported" for a sample rate out of range.
        """
        if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
            raise MediaError("unsupported", f"sample rate {frame.sample_rate} Hz")
        expected_ns = self.end_ns
        if start_ns is None:
            start_ns = self._start_ns if expected_ns is None else expected_ns
        follows = expected_ns is not None and abs(start_ns - expected_ns) <= GAP_NS
        if follows and expected_ns is not None:
            start_ns = expected_ns
        self.end_ns = start_ns + frame.samples * SECOND // frame.sample_rate
        if self.end_ns <= self._start_ns - SECOND or start_ns >= self._end_ns + SECOND:
            self._run_open = False  # more than a second away: does not affect the resampled clip
            return
        form = (frame.sample_rate, frame.format.name, tuple(channel.name for channel in frame.layout.channels))
        if not (follows and self._run_open and self._runs[-1].form == form):
            self._runs.append(Run(start_ns, form))
            self._run_open = True
        frame.pts = None  # the queue would check continuity by its own rule
        self._runs[-1].queue.write(frame)

    def render(self, rate_hz: int) -> tuple[NDArray[np.float32], list[Note]]:
        """The clip's sound, (samples,) mono, and notes on what was done to it.

        Raises: MediaError "no_audio" where the clip holds no audio.
        """
        samples = (self._end_ns - self._start_ns) * rate_hz // SECOND
        waveform = np.zeros(samples, dtype=np.float32)
        covered = np.zeros(samples, dtype=bool)
        notes: list[Note] = []
        channel = self._channel_instead_of_sum()
        if channel is not None:
            notes.append(Note(MONO_CHANNEL, channel))
        for run in self._runs:
            mono = _resample(_mix(run, channel), run.rate_hz, rate_hz)
            first = round((run.start_ns - self._start_ns) * rate_hz / SECOND)
            begin, end = max(0, first), min(samples, first + len(mono))
            if begin < end:
                waveform[begin:end] = mono[begin - first : end - first]
                covered[begin:end] = True
        if not covered.any():
            raise MediaError("no_audio", "the audio stream holds nothing inside the clip")
        return waveform, notes + _notes_on_gaps(covered, rate_hz)

    def render_native(self) -> tuple[NDArray[np.float32], int, list[Note]]:
        """The clip's channels at their own rate, (channels, samples), the rate in Hz, and notes.

        Where the track changes its form inside the clip, all of it becomes mono at the first rate.
        Raises: MediaError "no_audio" where no sound lies inside the clip.
        """
        forms = {run.form for run in self._runs}
        if len(forms) != 1:
            rate_hz = self._runs[0].rate_hz if self._runs else MIN_RATE_HZ
            mono, notes = self.render(rate_hz)
            return mono[None], rate_hz, [*notes, Note(AUDIO_FORMS, len(forms))]
        rate_hz = self._runs[0].rate_hz
        samples = (self._end_ns - self._start_ns) * rate_hz // SECOND
        channels = np.zeros((len(self._runs[0].speakers), samples), np.float32)
        covered = np.zeros(samples, dtype=bool)
        for run in self._runs:
            first = round((run.start_ns - self._start_ns) * rate_hz / SECOND)
            begin, end = max(0, first), min(samples, first + run.channels.shape[1])
            if begin < end:
                channels[:, begin:end] = run.channels[:, begin - first : end - first]
                covered[begin:end] = True
        if not covered.any():
            raise MediaError("no_audio", "the sound track holds nothing inside the clip")
        notes = _notes_on_gaps(covered, rate_hz)
        broken = sum(run.not_finite for run in self._runs)
        return channels, rate_hz, [*notes, *([Note(NOT_FINITE, broken)] if broken else [])]

    def _channel_instead_of_sum(self) -> int | None:
        """Index of the loudest channel where the mono mix is far below it (antiphase stereo); else None."""
        if not self._runs or len({run.speakers for run in self._runs}) > 1 or len(self._runs[0].speakers) < 2:
            return None
        channels = np.concatenate([_inside(run, self._start_ns, self._end_ns) for run in self._runs], axis=1)
        if channels.shape[1] == 0:
            return None
        levels = np.sqrt(np.mean(np.square(channels, dtype=np.float64), axis=1)) * (_weights(self._runs[0]) > 0)
        mono = np.sqrt(np.mean(np.square(_weights(self._runs[0]) @ channels, dtype=np.float64)))
        loudest = int(np.argmax(levels))
        share = float(_weights(self._runs[0])[loudest])  # one active channel of 5.1 is no cancellation
        return loudest if mono < CANCELLED * share * levels[loudest] else None


def _inside(run: Run, start_ns: int, end_ns: int) -> NDArray[np.float32]:
    first = max(0, (start_ns - run.start_ns) * run.rate_hz // SECOND)
    last = max(0, (end_ns - run.start_ns) * run.rate_hz // SECOND)
    return run.channels[:, first:last]


def _weights(run: Run) -> NDArray[np.float32]:
    shares = np.array([WEIGHTS.get(speaker, 0.5) for speaker in run.speakers], dtype=np.float32)
    if not shares.any():
        shares[:] = 1.0
    scaled: NDArray[np.float32] = shares / shares.sum()
    return scaled


def _mix(run: Run, channel: int | None) -> NDArray[np.float32]:
    samples = run.channels
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


def _notes_on_gaps(covered: NDArray[np.bool_], rate_hz: int) -> list[Note]:
    """Where the clip is silent because the source has no sound there; gaps too short to matter are not named."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~covered, [False]]).astype(np.int8)))
    gaps = [[round(1000 * edge / rate_hz) for edge in pair] for pair in edges.reshape(-1, 2).tolist()]
    clip_ms = round(1000 * len(covered) / rate_hz)
    return [audio_gap(begin, end, clip_ms) for begin, end in gaps if end - begin >= MIN_NAMED_GAP_MS]
