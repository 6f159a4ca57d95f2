"""Collect decoded video frames and make the frames of the clip."""

from fractions import Fraction
from typing import Any

import av

from uniform.errors import MediaError
from uniform.media.frame_sampling import SECOND, FrameSampler, Timebase
from uniform.media.notes import VIDEO_LATE_MS, Note
from uniform.media.video import Deinterlacer, Fit, FrameNormaliser
from uniform.spec import Spec

MAX_HELD_NS = SECOND // 2
"""Longest repetition of the first frame, where the video starts after the clip."""
MAX_BACKWARD_SHARE = Fraction(1, 10)
MIN_BACKWARD_FRAMES = 5
DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
UNSPECIFIED_TRANSFER = 2
MICROSECOND = Fraction(1, 1_000_000)


class FrameCollector:
    """Collects decoded frames of one stream, in decoding order, and makes the frames of the clip.

    Args:
        stream: the video stream.
        start_ns: the clip's start on the stream's clock.
        spec: geometry of the clip.
        fit: how frames are brought to the clip's shape.
    """

    def __init__(self, stream: Any, start_ns: int, spec: Spec, fit: Fit) -> None:
        self._stream, self._start_ns, self._spec = stream, start_ns, spec
        self._sampler: FrameSampler[av.VideoFrame] = FrameSampler(start_ns, spec.fps, spec.frames)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        self._normaliser = FrameNormaliser(spec.height_px, spec.width_px, fit, aspect)
        self._deinterlacer = Deinterlacer()
        self._timebase = Timebase(stream.time_base)
        self._clock = _Clock()
        self._frame_ns = int(SECOND / Fraction(stream.average_rate or spec.fps))
        self._last_ns: int | None = None
        self._end_ns = start_ns
        self._taken = self._backward = 0
        self.frames: list[av.VideoFrame] = []
        self.first_ns: int | None = None
        self.short_at_ns: int | None = None
        """End of the video, if that is before the clip's last frame."""
        self.next_ns: int | None = None
        """Time of a frame after the clip that is not decoded; the frame before it stands until then."""

    @property
    def done(self) -> bool:
        """True once every frame of the clip is made."""
        return self._sampler.done

    def damaged(self, reason: str) -> None:
        """Handle a packet that cannot be decoded; packets before the first complete frame do not matter.

        Raises: MediaError "decode_corrupt".
        """
        if self.first_ns is not None:
            at_s = ((self._last_ns or self._start_ns) - self._start_ns) / SECOND
            raise MediaError("decode_corrupt", f"the video stream is damaged {at_s:.2f} s into the clip ({reason})")

    def add(self, frame: av.VideoFrame) -> None:
        """Add the next decoded frame. Raises MediaError where it is damaged or unsupported."""
        if frame.is_corrupt:
            self.damaged("the decoder concealed errors")
            return
        time_ns = self._time_of(frame)
        self._taken += 1
        if self._last_ns is not None and time_ns <= self._last_ns:
            self._backward += time_ns < self._last_ns  # equal is not back: one frame of each pair is shown
            return
        if self.first_ns is None:
            self._begin(frame, time_ns)
        self._last_ns = time_ns
        self._end_ns = time_ns + (self._timebase.ns(frame.duration) if frame.duration else self._frame_ns)
        if self._deinterlacer.idle(frame):
            self._show(time_ns, frame)
            return
        frame.pts, frame.time_base = time_ns // 1000, MICROSECOND
        for deinterlaced in self._deinterlacer.push(frame):
            self._show_deinterlaced(deinterlaced)

    def finish(self) -> None:
        """Finish after the last frame. Raises MediaError where too many timestamps go backwards."""
        if self._backward > max(MIN_BACKWARD_FRAMES, round(self._taken * MAX_BACKWARD_SHARE)):
            raise MediaError("bad_timestamps", f"{self._backward} of {self._taken} frames go back in time")
        if self.done:
            return
        for deinterlaced in self._deinterlacer.flush():
            self._show_deinterlaced(deinterlaced)
        last_tick_ns = self._start_ns + (self._spec.frames - 1) * SECOND // self._spec.fps
        if self.next_ns is not None:
            self._end_ns = max(self._end_ns, self.next_ns)
        if self.first_ns is None or (not self.done and self._end_ns <= last_tick_ns):
            self.short_at_ns = self._end_ns
        elif (chosen := self._sampler.finish()) is not None:
            self._keep(*chosen)

    def notes(self) -> list[Note]:
        """Notes on the finished frames. Raises MediaError where they begin too long after the clip."""
        late_ns = 0 if self.first_ns is None else self.first_ns - self._start_ns
        if late_ns > MAX_HELD_NS:
            raise MediaError("decode_corrupt", f"no complete frame in the first {late_ns / SECOND:.2f} s of the clip")
        if late_ns > SECOND // (2 * self._spec.fps):
            return [Note(VIDEO_LATE_MS, round(1000 * late_ns / SECOND))]
        return []

    def _begin(self, frame: av.VideoFrame, time_ns: int) -> None:
        if self._stream.codec_tag in DOLBY_VISION_TAGS and frame.color_trc == UNSPECIFIED_TRANSFER:
            raise MediaError("unsupported", "Dolby Vision without a standard base layer")
        self.first_ns = time_ns

    def _show_deinterlaced(self, frame: av.VideoFrame) -> None:
        assert frame.pts is not None
        assert frame.time_base is not None
        self._show(Timebase(frame.time_base).ns(frame.pts), frame)

    def _show(self, time_ns: int, frame: av.VideoFrame) -> None:
        chosen = self._sampler.add(time_ns, frame)
        if chosen is not None:
            self._keep(*chosen)

    def _keep(self, frame: av.VideoFrame, times: int) -> None:
        self.frames += [self._normaliser.normalise(frame)] * times

    def _time_of(self, frame: av.VideoFrame) -> int:
        """Presentation time; decoding time where the container stores that instead, as FFmpeg does."""
        stamp = self._clock.choose(frame.pts, frame.dts)
        if stamp is not None:
            return self._timebase.ns(stamp)
        return self._start_ns if self._last_ns is None else self._last_ns + self._frame_ns


class _Clock:
    """Chooses the timestamps that go backwards less often: presentation, or else decoding."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}

    def choose(self, pts: int | None, dts: int | None) -> int | None:
        for name, stamp in (("pts", pts), ("dts", dts)):
            if stamp is not None:
                self._faults[name] += stamp <= self._last.get(name, stamp - 1)
                self._last[name] = stamp
        if pts is not None and (dts is None or self._faults["pts"] <= self._faults["dts"]):
            return pts
        return dts
