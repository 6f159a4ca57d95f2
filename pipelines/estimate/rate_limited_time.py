"""The least time that a fetch can take, whatever the line: how often each host may be asked, and at which hours."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from pipelines.hosts import DAY_S, HostPolicy, booked_name, host_of


@runtime_checkable
class RateLimited(Protocol):
    """A stage that asks hosts at a pace."""

    @property
    def pace(self) -> HostPolicy:
        """For hosts that `hosts` does not name."""
        ...

    @property
    def hosts(self) -> Mapping[str, HostPolicy]:
        """Host -> its policy, which holds for its subdomains too."""
        ...


def slowest_host(stage: RateLimited, sources: Iterable[tuple[str, str]]) -> tuple[str, float]:
    """The host that takes longest, and its seconds; ("", 0.0) where no host is asked.

    Hosts are asked side by side, so the slowest one decides. A source costs one turn; retries and rests come on top.

    Args:
        sources: kind and address of each, once.
    """
    turns: Counter[str] = Counter()
    for kind, uri in sources:
        host = host_of(kind, uri)
        if host is not None:
            turns[booked_name(host, stage.hosts)] += 1
    times = ((_seconds(count, stage.hosts.get(host, stage.pace)), host) for host, count in turns.items())
    seconds, slowest = max(times, default=(0.0, ""))
    return slowest, seconds


def _seconds(turns: int, policy: HostPolicy) -> float:
    """Mean time of so many turns: a burst at once, then one per interval, at the hours and days that are allowed."""
    interval_s = policy.interval_s * (1 + policy.jitter / 2)
    busy_s = max(0, turns - policy.burst) * interval_s
    awake_s = DAY_S - policy.quiet_s
    a_day = awake_s / interval_s
    if policy.daily_requests is not None:
        a_day = min(a_day, float(policy.daily_requests))
    return busy_s if turns <= a_day else turns / a_day * DAY_S
