"""The clock over a transfer: its mean pace, and an end for what comes so slowly that no read returns."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from pipelines.fetching.base import FetchError


class ThroughputMonitor:
    """The mean pace of a transfer, window by window.

    Args:
        slowest_bytes_per_s: mean over a window; slower is given up.
        window_s: length of a window.
        size: bytes that were there before.
        clock: for tests.
    """

    def __init__(
        self, slowest_bytes_per_s: float, window_s: float, size: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slowest, self._window_s, self._clock = slowest_bytes_per_s, window_s, clock
        self._began, self._from = clock(), size

    def judge(self, size: int) -> None:
        """Take note of the bytes that are there by now. Raises FetchError `too_slow` at the end of a slow window."""
        elapsed = self._clock() - self._began
        if elapsed < self._window_s:
            return
        if size - self._from < self._slowest * elapsed:
            raise FetchError("too_slow", f"{size - self._from:,} bytes in {elapsed:.0f} s")
        self._began, self._from = self._clock(), size


class Deadline:
    """Runs in a thread of its own; see `deadline`."""

    def __init__(self, limit_s: float, find: Callable[[], socket.socket | None]) -> None:
        self._limit_s, self._find = limit_s, find
        self._until, self._done = time.monotonic() + limit_s, threading.Event()
        self.passed = False

    def put_off(self) -> None:
        """Something came: the time begins anew."""
        self._until = time.monotonic() + self._limit_s

    def watch(self) -> None:
        """Wait for the end of the block, or for the time to be over, and then shut the socket down."""
        while not self._done.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                self.passed = True
                sock = self._find()
                with contextlib.suppress(OSError):
                    if sock is not None:
                        # Not the method of a TLS socket, which takes the TLS away under the thread that reads.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
                return

    def end(self) -> None:
        """The block is over."""
        self._done.set()


@contextlib.contextmanager
def deadline(limit_s: float, what: str, find: Callable[[], socket.socket | None]) -> Iterator[Deadline]:
    """Let the block take `limit_s` and no longer: a socket's own timeout begins anew with each byte.

    Args:
        limit_s: until the socket is shut down, so that the block's read ends; `put_off` begins it anew.
        what: is waited for, for the error.
        find: the socket; None where there is none yet.
    Raises: FetchError `too_slow` where the time was over, whatever the block made of it.
    """
    watch = Deadline(limit_s, find)
    thread = threading.Thread(target=watch.watch, name="deadline", daemon=True)
    thread.start()
    try:
        yield watch
    except Exception as error:
        if watch.passed:
            raise FetchError("too_slow", f"{what} did not come within {limit_s:g} s") from error
        raise
    finally:
        watch.end()
        thread.join()
    if watch.passed:
        raise FetchError("too_slow", f"{what} did not come within {limit_s:g} s")
