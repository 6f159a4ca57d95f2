"""A time limit for a whole transfer: a socket's own timeout starts again with each byte."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator


class DeadlineError(TimeoutError):
    """The time limit of a transfer passed."""


class Deadline:
    """A thread that shuts a socket down when the time limit passes; see `deadline`."""

    def __init__(self, limit_s: float, find: Callable[[], socket.socket | None]) -> None:
        self._limit_s, self._find = limit_s, find
        self._until, self._done = time.monotonic() + limit_s, threading.Event()
        self.passed = False

    def put_off(self) -> None:
        """Start the time limit again, after progress."""
        self._until = time.monotonic() + self._limit_s

    def watch(self) -> None:
        """Wait for the end of the block or of the time limit; at the limit, shut the socket down."""
        while not self._done.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                self.passed = True
                sock = self._find()
                with contextlib.suppress(OSError):
                    if sock is not None:
                        # Not the method of a TLS socket: it would remove the TLS state under the thread that reads.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
                return

    def end(self) -> None:
        """The block has ended."""
        self._done.set()


@contextlib.contextmanager
def deadline(limit_s: float, what: str, find: Callable[[], socket.socket | None]) -> Iterator[Deadline]:
    """Limit the block to `limit_s`.

    Args:
        limit_s: seconds until the socket is shut down, so that the block's read ends; `put_off` starts them again.
        what: is waited for; part of the error.
        find: returns the socket, or None while there is none.
    Raises: DeadlineError where the limit passed, whatever else the block raised.
    """
    watch = Deadline(limit_s, find)
    thread = threading.Thread(target=watch.watch, name="deadline", daemon=True)
    thread.start()
    try:
        yield watch
    except Exception as error:
        if watch.passed:
            raise DeadlineError(f"{what} did not come within {limit_s:g} s") from error
        raise
    finally:
        watch.end()
        thread.join()
    if watch.passed:
        raise DeadlineError(f"{what} did not come within {limit_s:g} s")
