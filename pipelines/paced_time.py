"""The least time that a fetch can take, whatever the line: how often each host may be asked, and at which hours."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from pipelines.fetching.pace import HostPolicy
from pipelines.pilot_sample import host_of

DAY_S = 86_400.0


@runtime_checkable
class Paced(Protocol):
    """A stage that asks hosts at a pace."""

    @property
    def pace(self) -> HostPolicy:
        """For hosts that `hosts` does not name."""
        ...

    @property
    def hosts(self) -> Mapping[str, HostPolicy]:
        """Host -> its policy, which holds for its subdomains too."""
        ...


def slowest_host(stage: Paced, sources: Iterable[tuple[str, str]]) -> tuple[str, float]:
    """The host that takes longest, and its seconds; ("", 0.0) where no host is asked.

    Hosts are asked side by side, so the slowest one decides. A source costs one turn; retries and rests come on top.

    Args:
        sources: kind and address of each, once.
    """
    turns: Counter[str] = Counter()
    for kind, uri in sources:
        host = host_of(kind, uri)
        if not host.startswith("("):
            turns[_booked_as(host, stage.hosts)] += 1
    times = ((_seconds(count, stage.hosts.get(host, stage.pace)), host) for host, count in turns.items())
    seconds, host = max(times, default=(0.0, ""))
    return host, seconds


def _booked_as(host: str, hosts: Mapping[str, HostPolicy]) -> str:
    """The name under which a host's turns are counted: that of its policy, or its own."""
    labels = host.lower().rstrip(".").split(".")
    names = (".".join(labels[first:]) for first in range(len(labels)))
    return next((name for name in names if name in hosts), ".".join(labels))


def _seconds(turns: int, policy: HostPolicy) -> float:
    """Mean time of so many turns: a burst at once, then one per interval, at the hours and days that are allowed."""
    interval_s = policy.interval_s * (1 + policy.jitter / 2)
    busy_s = max(0, turns - policy.burst) * interval_s
    awake_s = DAY_S - _quiet_s(policy.quiet_hours)
    a_day = awake_s / interval_s
    if policy.daily_requests is not None:
        a_day = min(a_day, float(policy.daily_requests))
    return busy_s if turns <= a_day else turns / a_day * DAY_S


def _quiet_s(quiet_hours: str | None) -> float:
    if quiet_hours is None:
        return 0.0
    first, last = (60 * int(text[:2]) + int(text[3:]) for text in quiet_hours.split("-"))
    return 60.0 * ((last - first) % 1_440)
