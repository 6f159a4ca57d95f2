"""How often a host may be asked: the policy, the interface to the state of all hosts, and the names of hosts.

The rate limiter, the estimates and the stage contract share them.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from uniform.errors import ConfigError

DAY_S = 86_400
_SPAN = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True, kw_only=True)
class HostPolicy:
    """How often a host is asked."""

    requests_per_hour: float = 3_600.0
    burst: int = 2
    """Requests that can follow each other at once after a pause."""
    jitter: float = 0.3
    """Share of the interval that chance can add to it; it never shortens it."""
    daily_requests: int | None = None
    quiet_hours: str | None = None
    """Local time in which the host is not asked, for instance "08:00-18:00"."""
    max_wait_s: float = 120.0
    """Longest wait for a host that cools down; beyond it the clip is dropped as retryable. Turns have no such limit."""
    backoff_s: float = 10.0
    """First cool-down after a refusal without Retry-After; doubles with each that follows."""
    breaker_refusals: int = 5
    """Refusals in a row that open the circuit breaker."""
    breaker_pause_s: float = 3_600.0
    """Cool-down of the circuit breaker; doubles each time it opens again, up to a day."""

    def __post_init__(self) -> None:
        if self.requests_per_hour <= 0 or self.burst < 1 or self.breaker_refusals < 1:
            raise ConfigError("requests_per_hour must be more than 0; burst and breaker_refusals 1 or more")
        if self.jitter < 0 or min(self.max_wait_s, self.backoff_s, self.breaker_pause_s) < 0:
            raise ConfigError("jitter, max_wait_s, backoff_s and breaker_pause_s must be 0 or more")
        if self.quiet_hours is not None and not _SPAN.fullmatch(self.quiet_hours):
            raise ConfigError(f'quiet_hours is {self.quiet_hours!r}; write it as "08:00-18:00"')

    @property
    def interval_s(self) -> float:
        """Mean time between requests."""
        return 3_600 / self.requests_per_hour

    def is_quiet(self, now_s: float) -> bool:
        """Whether `now_s`, in seconds since 1970, lies in the quiet hours."""
        if self.quiet_hours is None:
            return False
        first, last = self.quiet_hours.split("-")
        hour = time.strftime("%H:%M", time.localtime(now_s))
        return first <= hour < last if first <= last else hour >= first or hour < last

    @property
    def quiet_s(self) -> float:
        """Seconds of a day in which the host is not asked."""
        if self.quiet_hours is None:
            return 0.0
        first, last = (60 * int(text[:2]) + int(text[3:]) for text in self.quiet_hours.split("-"))
        return 60.0 * ((last - first) % 1_440)


class HostStates(Protocol):
    """Keeps the states of all hosts. Each call is atomic, however many workers there are, and durable."""

    def reserve(self, host: str, policy: HostPolicy, chance: float) -> float:
        """Take a turn; the seconds to wait for it. See `pipelines.fetching.rate_limit.reserve`."""
        ...

    def is_cooling_down(self, host: str) -> bool:
        """Whether the host is not to be asked at this moment."""
        ...

    def learn(self, host: str, policy: HostPolicy, refusal: str | None, retry_after_s: float | None) -> bool:
        """Record how the host answered. See `pipelines.fetching.rate_limit.learn`."""
        ...


def host_of(kind: str, uri: str) -> str | None:
    """The host that a source is asked from; None for a source that lies on a disk or has no host."""
    return None if kind in ("local", "archive") else urlsplit(uri).hostname


def bucket_name(host: str, hosts: Mapping[str, HostPolicy]) -> str:
    """The name under which a host's requests are counted: that of its policy in `hosts`, or its own.

    A policy holds for the subdomains of its host too, which share its rate.
    """
    labels = host.lower().rstrip(".").split(".")
    names = (".".join(labels[first:]) for first in range(len(labels)))
    return next((name for name in names if name in hosts), ".".join(labels))
