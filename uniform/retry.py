"""The retry policy of everything that asks a server: bounded attempts, waits that double, errors that are named."""

import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt


def retrying(
    *,
    attempts: int,
    first_wait_s: float,
    longest_wait_s: float,
    is_retryable: Callable[[BaseException], bool],
    needs_wait: Callable[[BaseException], bool] = lambda error: True,
    sleep: Callable[[float], None] = time.sleep,
) -> Retrying:
    """A caller that repeats a function: `retrying(...)(function, argument)`. The last error is raised as it is.

    Args:
        attempts: calls in all.
        first_wait_s: before the second attempt; doubles with each later one.
        longest_wait_s: limit of a wait.
        is_retryable: whether an error is worth another attempt.
        needs_wait: False for an error after which something else already waits, for instance a rate limit.
        sleep: for tests.
    """
    last: list[BaseException] = []

    def retryable(error: BaseException) -> bool:
        last[:] = [error]
        return is_retryable(error)

    def wait_s(state: RetryCallState) -> float:
        if last and not needs_wait(last[0]):
            return 0.0
        return min(first_wait_s * 2.0 ** min(state.attempt_number - 1, 60), longest_wait_s)

    return Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_s,
        retry=retry_if_exception(retryable),
        sleep=lambda wait: sleep(wait) if wait > 0 else None,
        reraise=True,
    )
