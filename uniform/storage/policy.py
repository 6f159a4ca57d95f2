"""How stores are asked: attempts, pauses, timeouts, concurrency, all in one place."""

import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from uniform.errors import ConfigError, RemoteError, UniformError

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoragePolicy:
    """Limits of the requests to one store. The defaults are ours."""

    attempts: int = 5
    """Attempts of one request before the command stops."""
    first_pause_s: float = 0.5
    """Pause after the first failure; doubled after each, so that five attempts wait 7.5 s in all."""
    longest_pause_s: float = 30.0
    """Longest pause between two attempts."""
    connect_timeout_s: float = 10.0
    """Longest wait for a connection."""
    read_timeout_s: float = 60.0
    """Longest wait for the next byte of an answer."""
    slowest_bytes_per_s: float = 64 * 1024
    """A transfer that is slower than this is given up, and tried again."""
    requests_at_once: int = 16
    """Requests that run at the same time."""
    part_bytes: int = 32 << 20
    """Files of twice this size and more are uploaded in parts of this size."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.requests_at_once < 1 or self.part_bytes < 5 << 20:
            raise ConfigError(
                f"storage: attempts {self.attempts} and requests_at_once {self.requests_at_once} must be 1 or more, "
                f"part_bytes {self.part_bytes} must be {5 << 20} or more"
            )

    def deadline_s(self, size_bytes: int) -> float:
        """Longest time of one request that moves so many bytes: a server that drips bytes does not hold a run."""
        return self.connect_timeout_s + self.read_timeout_s + size_bytes / self.slowest_bytes_per_s


POLICY = StoragePolicy()
"""The policy where a caller gives none."""


class NoAnswerError(RemoteError):
    """Every attempt failed."""


def retried(what: str, function: Callable[[], T], policy: StoragePolicy = POLICY, *, fix: str = "") -> T:
    """`function()`, repeated after a growing pause where the failure may be temporary.

    Args:
        what: what is read or written, for messages.
        fix: what to do when the store can be reached again, for the error.
    Raises: RemoteError where access is refused or the file is certainly not there; NoAnswerError where every attempt
        failed; FileExistsError as it is.
    """

    made = itertools.count(1)

    def once() -> T:
        number = next(made)
        try:
            return function()
        except Exception as error:
            if number < policy.attempts and is_retryable(error):
                logger.warning("%s: attempt %d of %d failed (%s)", what, number, policy.attempts, reason_of(error))
            raise

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(policy.attempts),
        wait=tenacity.wait_exponential(multiplier=policy.first_pause_s, max=policy.longest_pause_s),
        retry=tenacity.retry_if_exception(is_retryable),
        reraise=True,
    )
    try:
        return attempts(once)
    except (FileExistsError, UniformError):
        raise
    except PermissionError as error:
        raise RemoteError(
            f"{what}: refused ({reason_of(error)}). Give the driver credentials in its environment variables."
        ) from error
    except Exception as error:  # each driver has errors of its own
        if not is_retryable(error):
            raise RemoteError(f"{what}: not found. Check the URL; a finished folder of shards has it.") from error
        raise NoAnswerError(
            f"{what}: {policy.attempts} attempts failed, the last with {reason_of(error)}. "
            f"{fix or 'Run the same command again when the store can be reached.'}"
        ) from error


def is_retryable(error: BaseException) -> bool:
    """True where the next attempt may succeed: everything but a refusal, and a file that is certainly (not) there."""
    if isinstance(error, FileNotFoundError):
        return _may_pass(error)
    return isinstance(error, Exception) and not isinstance(error, PermissionError | FileExistsError | UniformError)


def _may_pass(error: FileNotFoundError) -> bool:
    """True where a driver reports "not found" for another failure, as the driver for HTTP does."""
    cause = error.__cause__
    if cause is None or isinstance(cause, LookupError):
        return False
    answer = getattr(cause, "response", None)  # of botocore
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (404, 410)
    return getattr(cause, "status", None) not in (404, 410)


def reason_of(error: BaseException) -> str:
    """An error as text, without the signed query of URLs in it."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\?\S+", "?...", f"{type(error).__name__}: {error}")
