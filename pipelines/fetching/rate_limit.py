"""Rate limits per host: how often a host is asked, its cool-down after refusals, and its circuit breaker.

The rules are functions of a host's state and the time. One store keeps the states of hosts for all workers of a run
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
from pipelines.hosts import DAY_S, HostPolicy, HostStates, bucket_name

_logger = logging.getLogger(__name__)
LONGEST_REASON = 200
CLOCK_SKEW_S = 3_600.0
"""Difference between the clocks of machines that is taken as it is."""
LONGEST_QUEUE_S = 10.0 * DAY_S
"""Longest wait for a turn, all workers together; a stored time beyond it comes from a wrong clock."""
_SECONDS = re.compile(r"[0-9]{1,18}")


@dataclass
class HostState:
    """What is known of one host; kept between runs. Times are seconds since 1970."""

    free_at: float = 0.0
    """When the bucket is full again less one token: the theoretical arrival of the next request."""
    blocked_until: float = 0.0
    """End of the cool-down."""
    refusals: int = 0
    pauses: int = 0
    day: int = 0
    used_today: int = 0
    reason: str = ""
    learned_at: float = 0.0
    """When the host's last answer came."""
    written_at: float = 0.0
    """The clock of the process that last changed this state; 0 in files of version 0.3.0."""

    def sane(self, now: float) -> "HostState":
        """This state without times that no right clock gives: a clock that was wrong once must not stop a host.

        Where the state was written by a clock ahead of ours, its times move back by the difference. Beyond that, a
        cool-down ends within a day, a bucket is never further ahead than its longest queue, and days of the future
        count nothing.
        """
        ahead_s = max(self.written_at, self.learned_at) - now
        moved_s = ahead_s if ahead_s > CLOCK_SKEW_S else 0.0
        free_at, blocked_until = self.free_at - moved_s, self.blocked_until - moved_s
        today = int(now // DAY_S)
        return HostState(
            free_at=free_at if free_at <= now + LONGEST_QUEUE_S else now,
            blocked_until=min(blocked_until, now + DAY_S),
            refusals=max(0, self.refusals),
            pauses=max(0, self.pauses),
            day=self.day if self.day <= today else 0,
            used_today=max(0, self.used_today) if self.day <= today else 0,
            reason=self.reason,
            learned_at=min(self.learned_at, now),
            written_at=min(self.written_at, now),
        )

    def merge(self, other: "HostState") -> None:
        """Add what another state of the same host holds; the stricter value counts."""
        if other.learned_at > self.learned_at:
            self.refusals, self.pauses, self.reason = other.refusals, other.pauses, other.reason
            self.learned_at = other.learned_at
        self.free_at = max(self.free_at, other.free_at)
        self.blocked_until = max(self.blocked_until, other.blocked_until)
        self.day, self.used_today = max((self.day, self.used_today), (other.day, other.used_today))


class RateLimiter(Protocol):
    """What every request passes before it goes to a host."""

    def take(self, host: str) -> None:
        """Wait for this host's next turn. Raises FetchError: host_paused, daily_budget, quiet_hours."""
        ...

    def report(self, host: str, refusal: str | None, retry_after_s: float | None = None) -> None:
        """Record how the host answered: None for well, or the reason of its refusal (429, 503, a robot check)."""
        ...


def reserve(state: HostState, policy: HostPolicy, host: str, now: float, chance: float) -> float:
    """Take a turn from `state`; the seconds to wait for it.

    In any span of T seconds at most `burst + T / interval` turns begin.

    Args:
        chance: 0..1, for the jitter.
    Raises: FetchError where the host cools down for longer than `max_wait_s`, or the time is in quiet hours.
    """
    _check_hour(policy, host, now)
    if state.day != int(now // DAY_S):
        state.day, state.used_today = int(now // DAY_S), 0
    if policy.daily_requests is not None and state.used_today >= policy.daily_requests:
        until = _clock_time((state.day + 1) * DAY_S)
        raise FetchError("daily_budget", f"{host}: {policy.daily_requests:,} requests are used up; again from {until}")
    if state.blocked_until - now > policy.max_wait_s:
        until = _clock_time(state.blocked_until)
        raise FetchError("host_paused", f"{host} cools down until {until}: {state.reason}")
    free_at = max(state.free_at, state.blocked_until, now)
    start = max(free_at - (policy.burst - 1) * policy.interval_s, state.blocked_until, now)
    _check_hour(policy, host, start)  # many turns that are waited for would reach into the quiet hours
    state.free_at = free_at + policy.interval_s * (1 + policy.jitter * chance)
    state.used_today += 1
    return start - now


def learn(state: HostState, policy: HostPolicy, refusal: str | None, retry_after_s: float | None, now: float) -> bool:
    """Record a host's answer in `state`; True where its circuit breaker opens."""
    state.learned_at = now
    if refusal is None:
        state.refusals = state.pauses = 0
        return False
    state.refusals += 1
    cool_down_s = policy.backoff_s * 2 ** min(state.refusals - 1, 16) if retry_after_s is None else retry_after_s
    opened = state.refusals >= policy.breaker_refusals
    if opened:
        cool_down_s = max(cool_down_s, policy.breaker_pause_s * 2 ** min(state.pauses, 16))
        state.refusals, state.pauses = 0, state.pauses + 1
    state.blocked_until = max(state.blocked_until, now + min(cool_down_s, DAY_S))
    state.reason = refusal[:LONGEST_REASON]
    return opened


class HostRateLimiter:
    """Applies the policy of each host for one worker, and waits.

    Args:
        states: of all hosts, shared by all workers.
        default: for hosts without a policy of their own.
        hosts: host -> policy; a policy holds for the host's subdomains too, which share its bucket.
        sleep, chance: for tests.
    """

    def __init__(
        self,
        states: HostStates,
        default: HostPolicy,
        hosts: Mapping[str, HostPolicy] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._states, self._default, self._hosts = states, default, dict(hosts or {})
        self._sleep = sleep
        self._chance = chance or random.Random().random

    def take(self, host: str) -> None:
        """Wait for this host's next turn. Raises FetchError: host_paused, daily_budget, quiet_hours."""
        name, policy = self._policy(host)
        while True:
            wait_s = self._states.reserve(name, policy, self._chance())
            if wait_s <= 0:
                return
            self._sleep(wait_s)
            if not self._states.is_cooling_down(name):
                return  # otherwise the host refused another worker in the meantime

    def report(self, host: str, refusal: str | None, retry_after_s: float | None = None) -> None:
        """Record how the host answered."""
        name, policy = self._policy(host)
        if self._states.learn(name, policy, refusal, retry_after_s):
            _logger.warning("%s refused %d times in a row (%s); it cools down", name, policy.breaker_refusals, refusal)

    def _policy(self, host: str) -> tuple[str, HostPolicy]:
        """(name under which the host's requests are counted, its policy)."""
        name = bucket_name(host, self._hosts)
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
