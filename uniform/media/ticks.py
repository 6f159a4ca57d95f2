"""Which frame of a source is shown at which frame of a clip: by time, never by index.

The rule. Frame i of a clip stands for the instant i / fps after the clip's start, and shows the source frame whose
timestamp is nearest to that instant. Where source frames are further apart than clip frames (variable frame rate, slow
sources), a frame is never shown more than half a clip frame before its time: until then its predecessor stays, as it
does on any player. Ties go to the later frame.
"""

from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")


class TickPicker(Generic[T]):
    """Takes source frames in time order and says how often each of them is shown.

    Args:
        start_s: the clip's start on the source's clock.
        fps: frames per second of the clip.
        count: frames of the clip.
    """

    def __init__(self, start_s: Fraction, fps: int, count: int) -> None:
        self._start_s = start_s
        self._fps = fps
        self._count = count
        self._next = 0
        self._held: tuple[Fraction, T] | None = None

    @property
    def done(self) -> bool:
        """True once every frame of the clip is known."""
        return self._next >= self._count

    def add(self, time_s: Fraction, frame: T) -> tuple[T, int] | None:
        """Take the next source frame; `time_s` must be later than that of the frame before it.

        Returns: the frame before it and how many clip frames show it, or None where none does.
        """
        before, self._held = self._held, (time_s, frame)
        if before is None:
            return None
        takeover_s = time_s - min((time_s - before[0]) / 2, Fraction(1, 2 * self._fps))
        shown = 0
        while not self.done and self._start_s + Fraction(self._next, self._fps) < takeover_s:
            shown += 1
            self._next += 1
        return (before[1], shown) if shown else None

    def finish(self) -> tuple[T, int] | None:
        """The source has ended: its last frame stays to the end of the clip."""
        if self._held is None or self.done:
            return None
        shown, self._next = self._count - self._next, self._count
        return self._held[1], shown
