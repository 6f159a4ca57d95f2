"""Rate limits per host: how often a host is asked, its cool-down after refusals, and its circuit breaker.

The rules are functions of a host's state and the time. One store keeps the states of hosts for every worker of a run
and outlives it: locked files (`pipelines/fetching/host_state.py`), or one actor for a whole cluster
(`pipelines/cluster/backend.py`).
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
from pipelines.hosts import DAY_S, HostPolicy, HostStates, booked_name

_log = logging.getLogger(__name__)
LONGEST_REASON = 200
_SECONDS = re.compile(r"[0-9]{1,18}")


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


class RateLimiter(Protocol):
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
    if state.blocked_until - now > policy.max_wait_s:
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


class HostRateLimiter:
    """A worker's way to the book of hosts: which policy holds for a host, and the waiting.

    Args:
        book: shared by all workers.
        default: for hosts without a policy of their own.
        hosts: host -> policy; a policy holds for the host's subdomains too, which share its bucket.
        sleep, chance: for tests.
    """

    def __init__(
        self,
        book: HostStates,
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
            if not self._book.is_cooling_down(name):
                return  # otherwise the host has refused somebody else in the meantime

    def report(self, host: str, refusal: str | None, retry_after_s: float | None = None) -> None:
        """Say how the host answered."""
        name, policy = self._policy(host)
        if self._book.learn(name, policy, refusal, retry_after_s):
            _log.warning("%s refused %d times in a row (%s); it rests", name, policy.breaker_refusals, refusal)

    def _policy(self, host: str) -> tuple[str, HostPolicy]:
        """(name under which the host's requests are counted, its policy)."""
        name = booked_name(host, self._hosts)
        return name, self._hosts.get(name, self._default)


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
    if policy.is_quiet(now):
        first, last = (policy.quiet_hours or "-").split("-")
        raise FetchError("quiet_hours", f"{host} is not asked between {first} and {last}")


def _clock_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
