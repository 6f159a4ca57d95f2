"""Decode one clip of a file that nobody vouches for: pictures by time, sound beside them on the same clock.

The clock. Time 0 is the file's first visible picture (its first sound, where it has no picture); a clip starts
`start_ms` after that. Pictures and sound are placed by their timestamps alone, so hidden pre-roll, edit lists, late
starts and odd container clocks leave them where a player would show them. Only called inside the sandbox's child.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from uniform.errors import MediaError
from uniform.media.container import Source, open_source, promised_end_s, refuse_broken_promise
from uniform.media.picture import Fit
from uniform.media.reel import Reel
from uniform.media.sound import SoundCollector
from uniform.spec import Spec

PREROLLS_S: tuple[Fraction | None, ...] = (Fraction(1), Fraction(15), None)
"""How far before the clip to land, tried in turn until pictures and sound reach back to the clip's start.
A second settles every audio decoder; None reads from the file's beginning."""
OVERRUN_S = 5
"""Packets this far behind the clip end the reading, whatever a stream may still lack."""
RESAMPLER_TAIL_S = Fraction(1, 10)
MAX_BAD_SOUND_PACKETS = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which clip of a file is wanted, and how it shall look."""

    spec: Spec
    start_ms: int = 0
    want_video: bool = True
    want_audio: bool = True
    fit: Fit = "crop"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A clip, decoded."""

    pictures: list[av.VideoFrame] | None
    """`spec.frames` pictures (yuv420p, BT.709, limited range) of the clip's size; repeats are the same object."""
    waveform: NDArray[np.float32] | None
    """(spec.samples,) mono, full scale = 1.0."""
    notes: list[str]


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
            if attempt.land(preroll_s):
                attempt.run()
                if preroll_s is None or attempt.reaches_back():
                    break
        decoded = attempt.result()
        refuse_broken_promise(source.container)
        return decoded
    finally:
        source.container.close()


def _refuse_missing_streams(source: Source, request: Request) -> None:
    if request.want_video and source.video is None:
        raise MediaError("no_video", "no video stream (a cover picture is none)")
    if request.want_audio and source.audio is None:
        raise MediaError("no_audio", "no audio stream")


class _Pass:
    """One walk over the packets of a file, from a landing point to the end of the clip."""

    def __init__(self, source: Source, request: Request) -> None:
        self._source, self._request = source, request
        spec = request.spec
        self._start_s = source.zero_s + Fraction(request.start_ms, 1000)
        self._end_s = self._start_s + spec.duration_s
        self._reel: Reel | None = None
        if request.want_video:
            self._reel = Reel(source.video, self._start_s, spec, request.fit)
        self._sound = SoundCollector(self._start_s, self._end_s) if request.want_audio else None
        self._first_sound_s: Fraction | None = None
        self._bad_sound_packets = 0
        self._read_error: str | None = None

    def land(self, preroll_s: Fraction | None) -> bool:
        """Go to the last key frame `preroll_s` or more before the clip, or to the beginning. False: not possible."""
        container = self._source.container
        stream: Any = self._source.video if self._reel is not None else self._source.audio
        if preroll_s is None:
            if self._request.start_ms > 0:
                container.seek(0, backward=True)
            return True
        target_s = self._start_s - preroll_s
        if target_s <= self._source.zero_s:
            return False
        try:
            container.seek(int(target_s / stream.time_base), stream=stream)
        except av.FFmpegError:
            return False
        return True

    def run(self) -> None:
        """Read packets until pictures and sound are complete or the file ends."""
        wanted: list[Any] = [
            stream
            for stream, consumer in ((self._source.video, self._reel), (self._source.audio, self._sound))
            if consumer is not None
        ]
        for stream in wanted:
            stream.thread_type = "NONE"
        try:
            for packet in self._source.container.demux(*wanted):
                if self._far_behind(packet):
                    break
                if packet.stream is self._source.video:
                    self._take_picture(packet)
                else:
                    self._take_sound(packet)
                if self._complete():
                    break
        except (av.InvalidDataError, av.OSError) as error:
            self._read_error = str(error).splitlines()[0]
        if self._reel is not None:
            self._reel.finish()

    def reaches_back(self) -> bool:
        """True where both streams begin at or before the clip, so that the landing point was early enough."""
        pictures = self._reel is None or (self._reel.first_s is not None and self._reel.first_s <= self._start_s)
        sound = self._sound is None or (self._first_sound_s is not None and self._first_sound_s <= self._start_s)
        return pictures and sound

    def result(self) -> Decoded:
        """The clip. Raises MediaError where pictures or sound do not amount to one."""
        notes: list[str] = []
        pictures = waveform = None
        if self._reel is not None:
            if self._reel.short_at_s is not None:
                raise self._ends_early(self._reel.short_at_s)
            pictures = self._reel.pictures
            notes += self._reel.notes
        if self._sound is not None:
            if self._bad_sound_packets > MAX_BAD_SOUND_PACKETS:
                code = "no_audio" if self._first_sound_s is None else "decode_corrupt"
                raise MediaError(code, f"{self._bad_sound_packets} packets of sound in the clip cannot be decoded")
            waveform, remarks = self._sound.render(self._request.spec.rate_hz)
            notes += remarks
            if self._bad_sound_packets:
                notes.append(f"{self._bad_sound_packets} packets of sound cannot be decoded")
        return Decoded(pictures=pictures, waveform=waveform, notes=notes)

    def _take_picture(self, packet: Any) -> None:
        assert self._reel is not None
        if self._reel.done:
            return
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            self._reel.damaged(str(error).splitlines()[0])
            return
        for frame in frames:
            self._reel.add(frame)

    def _take_sound(self, packet: Any) -> None:
        assert self._sound is not None
        stamp_s = None if packet.pts is None else packet.pts * packet.time_base
        if stamp_s is not None and stamp_s < self._start_s - 2 and self._request.start_ms > 0:
            return
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if stamp_s is None or self._start_s <= stamp_s < self._end_s:
                self._bad_sound_packets += 1
            return
        for frame in frames:
            start_s = None if frame.pts is None else frame.pts * frame.time_base
            self._sound.add(frame, start_s)
            if self._first_sound_s is None:
                self._first_sound_s = start_s if start_s is not None else self._start_s

    def _complete(self) -> bool:
        pictures = self._reel is None or self._reel.done
        sound = self._sound is None or (
            self._sound.end_s is not None and self._sound.end_s >= self._end_s + RESAMPLER_TAIL_S
        )
        return pictures and sound

    def _far_behind(self, packet: Any) -> bool:
        return packet.pts is not None and packet.pts * packet.time_base > self._end_s + OVERRUN_S

    def _ends_early(self, short_at_s: Fraction) -> MediaError:
        """Why the pictures do not fill the clip: the file is too short, cut, or damaged."""
        zero_s, end_s = self._source.zero_s, self._end_s
        held = f"pictures end at {float(short_at_s - zero_s):.2f} s, the clip at {float(end_s - zero_s):.2f} s"
        if self._read_error is not None:
            return MediaError("decode_corrupt", f"{held} ({self._read_error})")
        promised_s = promised_end_s(self._source.container, self._source.video)
        if promised_s is not None and promised_s >= end_s:
            return MediaError("truncated", f"{held}; the header promises {float(promised_s - zero_s):.2f} s")
        return MediaError("too_short", held)
