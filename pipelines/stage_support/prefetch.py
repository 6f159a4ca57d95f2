"""Work on the next items in threads while the caller uses the present one: a bounded queue, in order."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass
class Wait:
    """How long the consumer waited for items."""

    seconds: float = 0.0


def batched(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Lists of `size` items, in order; the last one can be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def prefetched(
    work: Callable[[A], B], items: Iterable[A], *, ahead: int, threads: int, wait: Wait | None = None
) -> Iterator[B]:
    """`work(item)` for each item, in the order of the items.

    Args:
        work: called in a thread; its exceptions are raised where the result is taken.
        items: taken in the caller's thread, at most `ahead` before their results.
        ahead: items in work before they are requested; 0 works in the caller's thread.
        threads: of the pool.
        wait: the time that the caller waits is added to it.
    """
    wait = wait or Wait()
    if ahead < 1:
        for item in items:
            began = time.monotonic()
            result = work(item)
            wait.seconds += time.monotonic() - began
            yield result
        return
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="prefetch")
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield _taken(pending, wait)
        while pending:
            yield _taken(pending, wait)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(pending: deque[Future[B]], wait: Wait) -> B:
    began = time.monotonic()
    result = pending.popleft().result()
    wait.seconds += time.monotonic() - began
    return result
