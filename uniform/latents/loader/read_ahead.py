"""Prepares the next steps in a thread while the current one is trained."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(
    read: Callable[[int], T], announce: Callable[[int], None], start: int, stop: int | None, depth: int
) -> Iterator[T]:
    """`read(start)`, `read(start + 1)`, ... in order, each prepared up to `depth` items in advance.

    Args:
        read: makes the item of a step; runs in the thread.
        announce: called with the next step before the current one is read; runs in the thread.
        stop: first step that is not wanted; None goes on for ever.
        depth: finished items that may wait, 1 or more.
    Raises: whatever `read` or `announce` raises, in the caller, at the step that it belongs to.
    """
    ready: queue.Queue[T | _Failed | None] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: T | _Failed | None) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            break

    def run() -> None:
        step = start
        try:
            while not closed.is_set() and (stop is None or step < stop):
                if stop is None or step + 1 < stop:
                    announce(step + 1)
                put(read(step))
                step += 1
            put(None)
        except BaseException as error:
            put(_Failed(error))

    thread = threading.Thread(target=run, name="latents-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        closed.set()
        thread.join()


class _Failed:
    """The exception that ended the thread, to be raised in the caller."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
