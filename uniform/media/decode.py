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
    refuse_unreadable,
)
from uniform.media.frame_collector import FrameCollector
from uniform.media.frame_sampling import SECOND, Timebase
from uniform.media.notes import AUDIO_LEAD_MS, BAD_AUDIO_PACKETS, Note
from uniform.media.video import Fit
from uniform.spec import Spec

PREROLLS_S: tuple[int | None, ...] = (1, 0, 15, None)
"""How far before the clip to seek, tried in turn until frames and audio cover the clip's start.
A second is enough for every audio decoder; None reads from the start of the file. 0 is tried only after an error: the
last key frame before the clip may lie behind the damage."""
OVERRUN_S = 5
"""A stream ends for the clip at a packet this far after it; as much again is read while the other stream is open."""
CLOCK_JUMP_S = 2
"""Decoding times that go back further begin another timeline, as in joined transport streams. Reading stops there."""
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
        failed = False
        for preroll_s in PREROLLS_S if request.start_ms > 0 else (None,):
            if preroll_s == 0 and not failed:
                continue
            if preroll_s is None and request.start_ms > 0:
                # seeking to 0 misses what a wrapped clock or negative times place before it
                source.container.close()
                source = open_source(path)
            attempt = _Pass(source, request)
            if not attempt.seek(preroll_s):
                continue
            try:
                attempt.run()
                if preroll_s is None or attempt.reaches_back():
                    return attempt.result()
            except MediaError:
                if preroll_s is None:
                    raise
                failed = True
        raise AssertionError("the last pass returns or raises")
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
        self._last_dts_ns: dict[int, int] = {}
        self._late_ns: dict[str, int] = {}
        self._jump: str | None = None

    def seek(self, preroll_s: int | None) -> bool:
        """Seek to the last key frame `preroll_s` or more before the clip. False where impossible.

        None keeps the read position, which is the start of a file that was just opened.
        """
        container = self._source.container
        stream: Any = self._source.video if self._frame_collector is not None else self._source.audio
        if preroll_s is None:
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
                    if self._ends_at(packet, timebase.ns(packet.pts)):
                        break
                    continue
                if self._jumps_back(packet, timebase):
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
        self._drain(timebases)
        if self._frame_collector is not None:
            self._frame_collector.finish()

    def _drain(self, timebases: dict[int, Timebase]) -> None:
        """Take the frames that the decoders still hold, wherever reading stopped."""
        if self._frame_collector is not None and not self._frame_collector.done:
            self._take_video(None)
        if self._audio is not None:
            self._take_audio(None, timebases[self._source.audio.index])  # type: ignore[union-attr]

    def _ends_at(self, packet: Any, time_ns: int) -> bool:
        """Note the first late packet of a stream. True once the other stream is not to be waited for any longer."""
        first_ns = self._late_ns.setdefault(packet.stream.type, time_ns)
        if self._frame_collector is not None and packet.stream.type == "video":
            self._frame_collector.next_ns = first_ns  # a frame stands until the next one, however late that is
        video = self._frame_collector is None or self._frame_collector.done or "video" in self._late_ns
        audio = self._audio is None or self._audio_complete() or "audio" in self._late_ns
        return (video and audio) or time_ns > first_ns + OVERRUN_S * SECOND

    def _jumps_back(self, packet: Any, timebase: Timebase) -> bool:
        """True where the decoding times of the packet's stream go back so far that another timeline begins."""
        if packet.dts is None:
            return False
        dts_ns = timebase.ns(packet.dts)
        last_ns = self._last_dts_ns.get(packet.stream_index, dts_ns)
        if dts_ns < last_ns - CLOCK_JUMP_S * SECOND:
            zero_ns = self._source.zero_ns
            self._jump = f"the clock jumps from {_seconds(last_ns - zero_ns)} back to {_seconds(dts_ns - zero_ns)}"
            return True
        self._last_dts_ns[packet.stream_index] = dts_ns
        return False

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

    def _take_video(self, packet: Any | None) -> None:
        """Decode `packet`, or what the decoder still holds where it is None."""
        assert self._frame_collector is not None
        if self._frame_collector.done:
            return
        try:
            frames = self._source.video.codec_context.decode(packet)  # type: ignore[union-attr]
        except (MemoryError, av.PatchWelcomeError):
            raise
        except av.EOFError:  # drained before
            return
        except av.FFmpegError as error:
            self._frame_collector.damaged(str(error).splitlines()[0])
            return
        for frame in frames:
            self._frame_collector.add(frame)

    def _take_audio(self, packet: Any | None, timebase: Timebase) -> None:
        """Decode `packet`, or what the decoder still holds where it is None."""
        assert self._audio is not None
        stamp_ns = None if packet is None or packet.pts is None else timebase.ns(packet.pts)
        if stamp_ns is not None and stamp_ns < self._start_ns - 2 * SECOND and self._request.start_ms > 0:
            return
        try:
            frames = self._source.audio.codec_context.decode(packet)  # type: ignore[union-attr]
        except (MemoryError, av.PatchWelcomeError):
            raise
        except av.EOFError:  # drained before
            return
        except av.FFmpegError:  # any error: a header that does not parse has other numbers than damaged content
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
        return frames and self._audio_complete()

    def _audio_complete(self) -> bool:
        return self._audio is None or (
            self._audio.end_ns is not None and self._audio.end_ns >= self._end_ns + RESAMPLER_TAIL_NS
        )

    def _ends_early(self, short_at_ns: int) -> MediaError:
        """The error where the frames do not fill the clip: the file is too short, truncated or damaged."""
        zero_ns, end_ns = self._source.zero_ns, self._end_ns
        held = f"frames end at {_seconds(short_at_ns - zero_ns)}, the clip at {_seconds(end_ns - zero_ns)}"
        if self._read_error is not None:
            return MediaError("decode_corrupt", f"{held} ({self._read_error})")
        if self._jump is not None:
            return MediaError("bad_timestamps", f"{held}; {self._jump}")
        promised_ns = promised_end_ns(self._source.container, self._source.video)
        if promised_ns is not None and promised_ns >= end_ns:
            return MediaError("truncated", f"{held}; the header promises {_seconds(promised_ns - zero_ns)}")
        return MediaError("too_short", held)


def _seconds(time_ns: int) -> str:
    return f"{time_ns / SECOND:.2f} s"
