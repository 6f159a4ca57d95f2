"""Choose the source frame of each frame of a clip: by time, never by index.

The rule: frame i of a clip is at i / fps after the clip's start, and takes the source frame whose timestamp is nearest.
Where source frames are further apart than clip frames (variable frame rate, slow sources), a source frame is taken at
most half a clip frame before its time; until then its predecessor is repeated, as in any player. Ties go to the later
frame.
"""

from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")

SECOND = 1_000_000_000
"""Times in this package are whole nanoseconds: exact enough for all containers, ten times faster than fractions."""


class Timebase:
    """The unit of a stream's timestamps.

    Args:
        unit_s: seconds per unit.
    """

    def __init__(self, unit_s: Fraction) -> None:
        self._numerator, self._denominator = unit_s.numerator * SECOND, unit_s.denominator

    def ns(self, stamp: int) -> int:
        """A timestamp or a duration as nanoseconds, rounded down."""
        return stamp * self._numerator // self._denominator

    def stamp(self, time_ns: int) -> int:
        """Nanoseconds as a timestamp, rounded down."""
        return time_ns * self._denominator // self._numerator


class FrameSampler(Generic[T]):
    """Takes source frames in time order and returns how often each one is repeated.

    Args:
        start_ns: the clip's start on the source's clock.
        fps: frames per second of the clip.
        count: frames of the clip.
    """

    def __init__(self, start_ns: int, fps: int, count: int) -> None:
        # times of clip frames round up and takeovers down, so that in an exact tie the later frame wins
        self._sample_times_ns = [start_ns - (-number * SECOND // fps) for number in range(count)]
        self._half_tick_ns = -(-SECOND // (2 * fps))
        self._count = count
        self._next = 0
        self._held: tuple[int, T] | None = None

    @property
    def done(self) -> bool:
        """True once every frame of the clip is chosen."""
        return self._next >= self._count

    def add(self, time_ns: int, frame: T) -> tuple[T, int] | None:
        """Add the next source frame; `time_ns` must be later than that of the frame before.

        Returns: the frame before and how many clip frames take it, or None where none does.
        """
        before, self._held = self._held, (time_ns, frame)
        if before is None:
            return None
        takeover_ns = time_ns - min((time_ns - before[0]) // 2, self._half_tick_ns)
        first = self._next
        while not self.done and self._sample_times_ns[self._next] < takeover_ns:
            self._next += 1
        return (before[1], self._next - first) if self._next > first else None

    def finish(self) -> tuple[T, int] | None:
        """End of the source: its last frame is repeated to the end of the clip."""
        if self._held is None or self.done:
            return None
        repeats, self._next = self._count - self._next, self._count
        return self._held[1], repeats
