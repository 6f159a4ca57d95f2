"""The picture half of a decoding pass: decoded frames in, the clip's pictures out."""

from fractions import Fraction
from typing import Any

import av

from uniform.errors import MediaError
from uniform.media.picture import Deinterlacer, Fit, PictureMaker
from uniform.media.ticks import TickPicker
from uniform.spec import Spec

MAX_HELD_S = Fraction(1, 2)
"""The first picture may be held this long where pictures begin after the clip does."""
MAX_BACKWARD_SHARE = Fraction(1, 10)
MIN_BACKWARD_FRAMES = 5
DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
UNSPECIFIED_TRANSFER = 2


class Reel:
    """Takes decoded frames of one stream, in the order the decoder gives them, and makes the clip's pictures.

    Args:
        stream: the video stream.
        start_s: the clip's start on the stream's clock.
        spec: geometry of the clip.
        fit: how the picture is brought to the clip's shape.
    """

    def __init__(self, stream: Any, start_s: Fraction, spec: Spec, fit: Fit) -> None:
        self._stream, self._start_s, self._spec = stream, start_s, spec
        self._picker: TickPicker[av.VideoFrame] = TickPicker(start_s, spec.fps, spec.frames)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        self._maker = PictureMaker(spec.height_px, spec.width_px, fit, aspect)
        self._deinterlacer = Deinterlacer()
        self._clock = _Clock()
        self._frame_s = 1 / Fraction(stream.average_rate or spec.fps)
        self._last_s: Fraction | None = None
        self._end_s = start_s
        self._taken = self._backward = 0
        self.pictures: list[av.VideoFrame] = []
        self.notes: list[str] = []
        self.first_s: Fraction | None = None
        self.short_at_s: Fraction | None = None
        """Where the pictures end, if that is before the clip's last frame."""

    @property
    def done(self) -> bool:
        """True once every picture of the clip is made."""
        return self._picker.done

    def damaged(self, reason: str) -> None:
        """A packet could not be decoded. What comes before the first whole picture does not matter.

        Raises: MediaError "decode_corrupt".
        """
        if self.first_s is not None:
            at_s = float((self._last_s or self._start_s) - self._start_s)
            raise MediaError("decode_corrupt", f"the video stream is damaged {at_s:.2f} s into the clip ({reason})")

    def add(self, frame: av.VideoFrame) -> None:
        """Take the next decoded frame. Raises MediaError where it is damaged or cannot be shown faithfully."""
        if frame.is_corrupt:
            self.damaged("the decoder concealed errors")
            return
        time_s = self._time_of(frame)
        self._taken += 1
        if self._last_s is not None and time_s <= self._last_s:
            self._backward += 1
            return
        if self.first_s is None:
            self._begin(frame, time_s)
        self._last_s = time_s
        duration_s = frame.duration * frame.time_base if frame.duration and frame.time_base else self._frame_s
        self._end_s = time_s + duration_s
        frame.pts = round(time_s / frame.time_base) if frame.time_base else frame.pts
        for shown in self._deinterlacer.push(frame):
            self._show(shown)

    def finish(self) -> None:
        """The stream has ended, or enough of it was read. Raises MediaError where its clock makes no sense."""
        if self._backward > max(MIN_BACKWARD_FRAMES, round(self._taken * MAX_BACKWARD_SHARE)):
            raise MediaError("bad_timestamps", f"{self._backward} of {self._taken} frames go back in time")
        if self.done:
            return
        for shown in self._deinterlacer.flush():
            self._show(shown)
        last_tick_s = self._start_s + Fraction(self._spec.frames - 1, self._spec.fps)
        if self.first_s is None or (not self.done and self._end_s < last_tick_s):
            self.short_at_s = self._end_s
        elif (chosen := self._picker.finish()) is not None:
            self._keep(*chosen)

    def _begin(self, frame: av.VideoFrame, time_s: Fraction) -> None:
        if self._stream.codec_tag in DOLBY_VISION_TAGS and frame.color_trc == UNSPECIFIED_TRANSFER:
            raise MediaError("unsupported", "Dolby Vision without a standard base layer")
        self.first_s = time_s
        late_s = time_s - self._start_s
        if late_s > MAX_HELD_S:
            raise MediaError("decode_corrupt", f"no whole picture in the first {float(late_s):.2f} s of the clip")
        if late_s > Fraction(1, 2 * self._spec.fps):
            self.notes.append(f"picture starts {round(1000 * late_s):,} ms late; the first frame is held")

    def _show(self, frame: av.VideoFrame) -> None:
        assert frame.pts is not None
        assert frame.time_base is not None
        chosen = self._picker.add(frame.pts * frame.time_base, frame)
        if chosen is not None:
            self._keep(*chosen)

    def _keep(self, frame: av.VideoFrame, times: int) -> None:
        self.pictures += [self._maker.make(frame)] * times

    def _time_of(self, frame: av.VideoFrame) -> Fraction:
        """Presentation time; where the container stores decoding times in their place, those, as FFmpeg does."""
        stamp = self._clock.choose(frame.pts, frame.dts)
        if stamp is not None and frame.time_base:
            return Fraction(stamp * frame.time_base)
        return self._start_s if self._last_s is None else self._last_s + self._frame_s


class _Clock:
    """Trusts the timestamps that go back in time less often: presentation, or else decoding."""

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
