"""Do the work on the next items in threads while the caller is busy with the present one: a bounded queue, in order."""

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
    """How long the consumer stood still for want of items."""

    seconds: float = 0.0


def prefetched(
    work: Callable[[A], B], items: Iterable[A], *, ahead: int, threads: int, wait: Wait | None = None
) -> Iterator[B]:
    """`work(item)` for each item, in the order of the items.

    Args:
        work: called in a thread; what it raises is raised where its result is taken.
        items: taken in the caller's thread, never more than `ahead` before their results are.
        ahead: items begun before they are asked for; 0 works in the caller's thread.
        threads: of the pool.
        wait: grows by the time that the caller waited for results.
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
