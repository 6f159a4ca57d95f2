"""Limits on the time of a transfer: its mean throughput, and a deadline for each step."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

from pipelines.fetching.base import FetchError
from uniform.deadline import Deadline, DeadlineError
from uniform.deadline import deadline as plain_deadline


class ThroughputMonitor:
    """The mean throughput of a transfer, window by window.

    Args:
        slowest_bytes_per_s: mean over a window; a slower transfer is given up.
        window_s: length of a window.
        size: bytes on disk before the transfer.
        clock: for tests.
    """

    def __init__(
        self, slowest_bytes_per_s: float, window_s: float, size: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slowest, self._window_s, self._clock = slowest_bytes_per_s, window_s, clock
        self._began, self._from = clock(), size

    def judge(self, size: int) -> None:
        """Record the bytes that are on disk now. Raises FetchError `too_slow` at the end of a slow window."""
        elapsed = self._clock() - self._began
        if elapsed < self._window_s:
            return
        if size - self._from < self._slowest * elapsed:
            raise FetchError("too_slow", f"{size - self._from:,} bytes in {elapsed:.0f} s")
        self._began, self._from = self._clock(), size


@contextlib.contextmanager
def deadline(limit_s: float, what: str, find: Callable[[], socket.socket | None]) -> Iterator[Deadline]:
    """As `uniform.deadline.deadline`. Raises FetchError `too_slow` where the limit passed."""
    try:
        with plain_deadline(limit_s, what, find) as watch:
            yield watch
    except DeadlineError as error:
        raise FetchError("too_slow", str(error)) from error
