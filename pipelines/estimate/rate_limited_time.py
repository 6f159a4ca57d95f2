"""The least time that fetching takes at the rate limits of the hosts, however fast the network is."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from pipelines.hosts import DAY_S, HostPolicy, bucket_name, host_of


@runtime_checkable
class RateLimited(Protocol):
    """A stage that sends requests to hosts under rate limits."""

    @property
    def rate_limit(self) -> HostPolicy:
        """Policy of hosts that `hosts` does not name."""
        ...

    @property
    def hosts(self) -> Mapping[str, HostPolicy]:
        """Host -> its policy, also for its subdomains."""
        ...


def slowest_host(stage: RateLimited, sources: Iterable[tuple[str, str]]) -> tuple[str, float]:
    """The host that takes longest, and its seconds; ("", 0.0) where nothing is fetched from a host.

    Hosts work in parallel, so the slowest one decides. A source costs one request; retries and cool-downs are extra.

    Args:
        stage: with its rate limits.
        sources: (kind, address) of each source, without repeats.
    """
    requests: Counter[str] = Counter()
    for kind, uri in sources:
        host = host_of(kind, uri)
        if host is not None:
            requests[bucket_name(host, stage.hosts)] += 1
    times = ((_seconds(count, stage.hosts.get(host, stage.rate_limit)), host) for host, count in requests.items())
    seconds, slowest = max(times, default=(0.0, ""))
    return slowest, seconds


def _seconds(requests: int, policy: HostPolicy) -> float:
    """Mean seconds of `requests` requests: a burst, then one per interval, within daily limits, outside quiet hours."""
    interval_s = policy.interval_s * (1 + policy.jitter / 2)
    busy_s = max(0, requests - policy.burst) * interval_s
    active_s = DAY_S - policy.quiet_s
    per_day = active_s / interval_s
    if policy.daily_requests is not None:
        per_day = min(per_day, float(policy.daily_requests))
    return busy_s if requests <= per_day else requests / per_day * DAY_S
