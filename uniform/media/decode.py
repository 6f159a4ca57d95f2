"""Decode one clip of an untrusted file: frames by time, audio on the same clock.

Time 0 is the file's first visible frame (its first audio sample, where it has no video); a clip starts `start_ms` after
that. Frames and audio are placed by their timestamps only, so with hidden pre-roll, edit lists, late starts and odd
container clocks they are where a player shows them. Used only inside the sandbox's child process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from uniform.errors import MediaError
from uniform.media.audio import AudioCollector
from uniform.media.container import (
    FILE_PREFIX,
    Source,
    open_source,
    promised_end_ns,
    refuse_broken_promise,
    refuse_unreadable,
)
from uniform.media.frame_collector import FrameCollector
from uniform.media.frame_sampling import SECOND, Timebase
from uniform.media.notes import AUDIO_LEAD_MS, BAD_AUDIO_PACKETS, Note
from uniform.media.video import Fit
from uniform.spec import Spec

PREROLLS_S: tuple[int | None, ...] = (1, 15, None)
"""How far before the clip to seek, tried in turn until frames and audio cover the clip's start.
A second is enough for every audio decoder; None reads from the start of the file."""
OVERRUN_S = 5
"""Reading stops at packets this far after the clip, even if a stream is incomplete."""
RESAMPLER_TAIL_NS = SECOND // 10
MAX_BAD_AUDIO_PACKETS = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """The clip to decode, and its geometry."""

    spec: Spec
    start_ms: int = 0
    want_video: bool = True
    want_audio: bool = True
    fit: Fit = "crop"
    native_audio: bool = False
    """The channels at the file's own rate, in place of one at the spec's: for metrics with their own resampler."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file's header says, before anything is decoded."""

    duration_s: float | None
    """None where the header promises none."""
    fps: float | None
    """Average frame rate; None without a video stream."""
    height_px: int
    width_px: int
    has_audio: bool


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded clip."""

    frames: list[av.VideoFrame] | None
    """`spec.frames` frames (yuv420p, BT.709, limited range) of the clip's size; repeats are the same object."""
    waveform: NDArray[np.float32] | None
    """(spec.samples,) mono, full scale = 1.0; with `native_audio` (channels, samples)."""
    notes: list[Note]
    rate_hz: int | None = None
    """Of the waveform."""


def decode(path: Path, request: Request) -> Decoded:
    """Decode the clip that starts at `request.start_ms`.

    Raises: MediaError with one of the ledger's codes where the file or this part of it cannot be used.
    """
    source = open_source(path)
    try:
        _refuse_missing_streams(source, request)
        prerolls = PREROLLS_S if request.start_ms > 0 else (None,)
        for preroll_s in prerolls:
            attempt = _Pass(source, request)
            if not attempt.seek(preroll_s):
                continue
            try:
                attempt.run()
            except MediaError:
                if preroll_s is None:
                    raise
            else:
                if preroll_s is None or attempt.reaches_back():
                    break
        decoded = attempt.result()
        refuse_broken_promise(source.container)
        return decoded
    finally:
        source.container.close()


def probe(path: Path) -> Header:
    """Read a file's header. Raises MediaError as `decode` does, where it cannot be opened."""
    source = open_source(path)
    try:
        video = source.video
        end_ns = promised_end_ns(source.container, video)
        rate = None if video is None else video.average_rate or video.guessed_rate
        return Header(
            duration_s=None if end_ns is None else max(0, end_ns - source.zero_ns) / SECOND,
            fps=None if rate is None else float(rate),
            height_px=0 if video is None else int(video.height or 0),
            width_px=0 if video is None else int(video.width or 0),
            has_audio=source.audio is not None,
        )
    finally:
        source.container.close()


def _refuse_missing_streams(source: Source, request: Request) -> None:
    if request.want_video and source.video is None:
        raise MediaError("no_video", "no video stream (a cover image does not count)")
    if request.want_audio and source.audio is None:
        raise MediaError("no_audio", "no audio stream")


class _Pass:
    """One pass over the packets of a file, from a seek position to the end of the clip."""

    def __init__(self, source: Source, request: Request) -> None:
        self._source, self._request = source, request
        spec = request.spec
        self._start_ns = source.zero_ns + request.start_ms * SECOND // 1000
        self._end_ns = self._start_ns + spec.duration_s * SECOND
        self._frame_collector: FrameCollector | None = None
        if request.want_video:
            self._frame_collector = FrameCollector(source.video, self._start_ns, spec, request.fit)
        self._audio = AudioCollector(self._start_ns, self._end_ns) if request.want_audio else None
        self._first_audio_ns: int | None = None
        self._bad_audio_packets = 0
        self._read_error: str | None = None

    def seek(self, preroll_s: int | None) -> bool:
        """Seek to the last key frame `preroll_s` or more before the clip, or to the start. False where impossible."""
        container = self._source.container
        stream: Any = self._source.video if self._frame_collector is not None else self._source.audio
        if preroll_s is None:
            if self._request.start_ms > 0:
                container.seek(0, backward=True)
            return True
        target_ns = self._start_ns - preroll_s * SECOND
        if target_ns <= self._source.zero_ns:
            return False
        try:
            container.seek(Timebase(stream.time_base).stamp(target_ns), stream=stream)
        except av.FFmpegError:
            return False
        return True

    def run(self) -> None:
        """Read packets until frames and audio are complete or the file ends."""
        wanted: list[Any] = [
            stream
            for stream, consumer in ((self._source.video, self._frame_collector), (self._source.audio, self._audio))
            if consumer is not None
        ]
        timebases = {stream.index: Timebase(stream.time_base) for stream in wanted}
        too_late_ns = self._end_ns + OVERRUN_S * SECOND
        try:
            for packet in self._source.container.demux(*wanted):
                timebase = timebases.get(packet.stream_index)
                if timebase is None:  # a stream that appears later in the file
                    continue
                if packet.pts is not None and timebase.ns(packet.pts) > too_late_ns:
                    break
                if packet.stream.type == "video":
                    self._take_video(packet)
                else:
                    self._take_audio(packet, timebase)
                if self._complete():
                    break
        except (av.InvalidDataError, av.OSError) as error:
            refuse_unreadable(Path(self._source.container.name.removeprefix(FILE_PREFIX)), error)
            self._read_error = str(error).splitlines()[0]
        if self._frame_collector is not None:
            self._frame_collector.finish()

    def reaches_back(self) -> bool:
        """True where both streams start at or before the clip, so that the seek position was early enough."""
        frames = self._frame_collector is None or (
            self._frame_collector.first_ns is not None and self._frame_collector.first_ns <= self._start_ns
        )
        audio = self._audio is None or (self._first_audio_ns is not None and self._first_audio_ns <= self._start_ns)
        return frames and audio

    def result(self) -> Decoded:
        """The decoded clip. Raises MediaError where frames or audio are incomplete."""
        notes: list[Note] = []
        frames = waveform = None
        rate_hz: int | None = None
        if self._frame_collector is not None:
            if self._frame_collector.short_at_ns is not None:
                raise self._ends_early(self._frame_collector.short_at_ns)
            notes += self._frame_collector.notes()
            frames = self._frame_collector.frames
        if self._audio is not None:
            if self._bad_audio_packets > MAX_BAD_AUDIO_PACKETS:
                code = "no_audio" if self._first_audio_ns is None else "decode_corrupt"
                raise MediaError(code, f"{self._bad_audio_packets} packets of audio in the clip cannot be decoded")
            if self._request.native_audio:
                waveform, rate_hz, audio_notes = self._audio.render_native()
            else:
                rate_hz = self._request.spec.rate_hz
                waveform, audio_notes = self._audio.render(rate_hz)
            notes += self._notes_on_lead() + audio_notes
            if self._bad_audio_packets:
                notes.append(Note(BAD_AUDIO_PACKETS, self._bad_audio_packets))
        return Decoded(frames=frames, waveform=waveform, notes=notes, rate_hz=rate_hz)

    def _notes_on_lead(self) -> list[Note]:
        """Note on audio before the first frame, which is not in the clip: the video sets time 0."""
        if self._frame_collector is None or self._first_audio_ns is None or self._request.start_ms > 0:
            return []
        lead_ns = self._start_ns - self._first_audio_ns
        if lead_ns < SECOND // self._request.spec.fps:
            return []
        return [Note(AUDIO_LEAD_MS, round(1000 * lead_ns / SECOND))]

    def _take_video(self, packet: Any) -> None:
        assert self._frame_collector is not None
        if self._frame_collector.done:
            return
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            self._frame_collector.damaged(str(error).splitlines()[0])
            return
        for frame in frames:
            self._frame_collector.add(frame)

    def _take_audio(self, packet: Any, timebase: Timebase) -> None:
        assert self._audio is not None
        stamp_ns = None if packet.pts is None else timebase.ns(packet.pts)
        if stamp_ns is not None and stamp_ns < self._start_ns - 2 * SECOND and self._request.start_ms > 0:
            return
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if stamp_ns is None or self._start_ns <= stamp_ns < self._end_ns:
                self._bad_audio_packets += 1
            return
        for frame in frames:
            start_ns = None if frame.pts is None else timebase.ns(frame.pts)
            self._audio.add(frame, start_ns)
            if self._first_audio_ns is None:
                self._first_audio_ns = start_ns if start_ns is not None else self._start_ns

    def _complete(self) -> bool:
        frames = self._frame_collector is None or self._frame_collector.done
        audio = self._audio is None or (
            self._audio.end_ns is not None and self._audio.end_ns >= self._end_ns + RESAMPLER_TAIL_NS
        )
        return frames and audio

    def _ends_early(self, short_at_ns: int) -> MediaError:
        """The error where the frames do not fill the clip: the file is too short, truncated or damaged."""
        zero_ns, end_ns = self._source.zero_ns, self._end_ns
        held = f"frames end at {_seconds(short_at_ns - zero_ns)}, the clip at {_seconds(end_ns - zero_ns)}"
        if self._read_error is not None:
            return MediaError("decode_corrupt", f"{held} ({self._read_error})")
        promised_ns = promised_end_ns(self._source.container, self._source.video)
        if promised_ns is not None and promised_ns >= end_ns:
            return MediaError("truncated", f"{held}; the header promises {_seconds(promised_ns - zero_ns)}")
        return MediaError("too_short", held)


def _seconds(time_ns: int) -> str:
    return f"{time_ns / SECOND:.2f} s"
