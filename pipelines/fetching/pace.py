"""Politeness as a mechanism: how often a host is asked, when it rests, and that it rests at all.

The rules are functions of a host's state and the time. One book of hosts keeps the states for every worker of a run,
and outlives it; who keeps it is the engine's business: locked files (`pipelines/fetching/book.py`), or one actor for a
whole cluster (`pipelines/runner.py`).
"""

import email.utils
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipelines.fetching.base import FetchError
from uniform.errors import ConfigError

_log = logging.getLogger(__name__)
DAY_S = 86_400
LONGEST_REASON = 200
_SECONDS = re.compile(r"[0-9]{1,18}")
_SPAN = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True, kw_only=True)
class HostPolicy:
    """What a host may be asked."""

    requests_per_hour: float = 3_600.0
    burst: int = 2
    """Requests that may follow each other at once after a rest."""
    jitter: float = 0.3
    """Share of the interval that chance may add to it; it never takes away."""
    daily_requests: int | None = None
    quiet_hours: str | None = None
    """Local time in which the host is not asked, for instance "08:00-18:00"."""
    patience_s: float = 120.0
    """Longest wait for a host that rests; beyond it the clip is put back as transient. A turn is always waited for."""
    backoff_s: float = 10.0
    """First rest after a refusal without Retry-After; doubles with each that follows."""
    breaker_refusals: int = 5
    """Refusals in a row after which the host rests for long."""
    breaker_pause_s: float = 3_600.0
    """The long rest; doubles each time the host refuses again, up to a day."""

    def __post_init__(self) -> None:
        if self.requests_per_hour <= 0 or self.burst < 1 or self.breaker_refusals < 1:
            raise ConfigError("requests_per_hour must be more than 0; burst and breaker_refusals 1 or more")
        if self.jitter < 0 or min(self.patience_s, self.backoff_s, self.breaker_pause_s) < 0:
            raise ConfigError("jitter, patience_s, backoff_s and breaker_pause_s must be 0 or more")
        if self.quiet_hours is not None and not _SPAN.fullmatch(self.quiet_hours):
            raise ConfigError(f'quiet_hours is {self.quiet_hours!r}; write it as "08:00-18:00"')

    @property
    def interval_s(self) -> float:
        """Mean time between requests."""
        return 3_600 / self.requests_per_hour


@dataclass
class HostState:
    """What is known of one host; kept between runs. Times are seconds since 1970."""

    free_at: float = 0.0
    """When the bucket is full again less one token: the theoretical arrival of the next request."""
    blocked_until: float = 0.0
    refusals: int = 0
    pauses: int = 0
    day: int = 0
    used_today: int = 0
    reason: str = ""
    learned_at: float = 0.0
    """When the host's last answer came."""

    def meet(self, other: "HostState") -> None:
        """Take over what another book knows of this host and this one does not."""
        if other.learned_at > self.learned_at:
            self.refusals, self.pauses, self.reason = other.refusals, other.pauses, other.reason
            self.learned_at = other.learned_at
        self.free_at = max(self.free_at, other.free_at)
        self.blocked_until = max(self.blocked_until, other.blocked_until)
        self.day, self.used_today = max((self.day, self.used_today), (other.day, other.used_today))


class HostBook(Protocol):
    """Keeps the states of all hosts. Each call is atomic, however many workers there are, and durable."""

    def reserve(self, host: str, policy: HostPolicy, chance: float) -> float:
        """See the function `reserve`."""
        ...

    def rests(self, host: str) -> bool:
        """Whether the host is not to be asked at this moment."""
        ...

    def learn(self, host: str, policy: HostPolicy, refusal: str | None, retry_after_s: float | None) -> bool:
        """See the function `learn`."""
        ...


class Pace(Protocol):
    """The door to a host that every request passes."""

    def take(self, host: str) -> None:
        """Wait for this host's next turn. Raises FetchError: host_paused, daily_budget, quiet_hours."""
        ...

    def report(self, host: str, refusal: str | None, retry_after_s: float | None = None) -> None:
        """Say how the host answered: None for well, or the words of its refusal (429, 503, sign in, too many)."""
        ...


def reserve(state: HostState, policy: HostPolicy, host: str, now: float, chance: float) -> float:
    """Take a turn from `state`; the seconds to wait for it.

    In any span of T seconds at most `burst + T / interval` turns begin.

    Args:
        chance: 0..1, for the jitter.
    Raises: FetchError where the host rests for longer than the policy's patience, or is not to be asked now, or then.
    """
    _check_hour(policy, host, now)
    if state.day != int(now // DAY_S):
        state.day, state.used_today = int(now // DAY_S), 0
    if policy.daily_requests is not None and state.used_today >= policy.daily_requests:
        until = _clock_time((state.day + 1) * DAY_S)
        raise FetchError("daily_budget", f"{host}: {policy.daily_requests:,} requests are used up; again from {until}")
    if state.blocked_until - now > policy.patience_s:
        until = _clock_time(state.blocked_until)
        raise FetchError("host_paused", f"{host} rests until {until}: {state.reason}")
    free_at = max(state.free_at, state.blocked_until, now)
    start = max(free_at - (policy.burst - 1) * policy.interval_s, state.blocked_until, now)
    _check_hour(policy, host, start)  # many turns that are waited for would reach into the quiet hours
    state.free_at = free_at + policy.interval_s * (1 + policy.jitter * chance)
    state.used_today += 1
    return start - now


def learn(state: HostState, policy: HostPolicy, refusal: str | None, retry_after_s: float | None, now: float) -> bool:
    """Take a host's answer into `state`; whether its breaker opened."""
    state.learned_at = now
    if refusal is None:
        state.refusals = state.pauses = 0
        return False
    state.refusals += 1
    rest_s = policy.backoff_s * 2 ** min(state.refusals - 1, 16) if retry_after_s is None else retry_after_s
    opened = state.refusals >= policy.breaker_refusals
    if opened:
        rest_s = max(rest_s, policy.breaker_pause_s * 2 ** min(state.pauses, 16))
        state.refusals, state.pauses = 0, state.pauses + 1
    state.blocked_until = max(state.blocked_until, now + min(rest_s, DAY_S))
    state.reason = refusal[:LONGEST_REASON]
    return opened


class HostPace:
    """A worker's way to the book of hosts: which policy holds for a host, and the waiting.

    Args:
        book: shared by all workers.
        default: for hosts without a policy of their own.
        hosts: host -> policy; a policy holds for the host's subdomains too, which share its bucket.
        sleep, chance: for tests.
    """

    def __init__(
        self,
        book: HostBook,
        default: HostPolicy,
        hosts: Mapping[str, HostPolicy] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._book, self._default, self._hosts = book, default, dict(hosts or {})
        self._sleep = sleep
        self._chance = chance or random.Random().random

    def take(self, host: str) -> None:
        """Wait for this host's next turn. Raises FetchError: host_paused, daily_budget, quiet_hours."""
        name, policy = self._policy(host)
        while True:
            wait_s = self._book.reserve(name, policy, self._chance())
            if wait_s <= 0:
                return
            self._sleep(wait_s)
            if not self._book.rests(name):
                return  # otherwise the host has refused somebody else in the meantime

    def report(self, host: str, refusal: str | None, retry_after_s: float | None = None) -> None:
        """Say how the host answered."""
        name, policy = self._policy(host)
        if self._book.learn(name, policy, refusal, retry_after_s):
            _log.warning("%s refused %d times in a row (%s); it rests", name, policy.breaker_refusals, refusal)

    def _policy(self, host: str) -> tuple[str, HostPolicy]:
        """(name under which the host is booked, its policy)."""
        labels = host.lower().rstrip(".").split(".")
        for first in range(len(labels)):
            name = ".".join(labels[first:])
            if name in self._hosts:
                return name, self._hosts[name]
        return ".".join(labels), self._default


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None where it is neither."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _check_hour(policy: HostPolicy, host: str, now: float) -> None:
    if policy.quiet_hours is None:
        return
    first, last = policy.quiet_hours.split("-")
    hour = time.strftime("%H:%M", time.localtime(now))
    quiet = first <= hour < last if first <= last else hour >= first or hour < last
    if quiet:
        raise FetchError("quiet_hours", f"{host} is not asked between {first} and {last}")


def _clock_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
