"""Codes over time: the clips that each stage finished per hour, or per day for longer runs."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.codes import CODES
from pipelines.run.ledger import OK
from pipelines.run.status import StageStatus

MOST_HOURS = 96
"""A run of more hours gets one bar per day."""
NAMED_CODES = 6
"""The most frequent codes have their own colour; the others share one."""
OTHERS = "others"
HOUR = "%Y-%m-%dT%H"


@dataclass(frozen=True, kw_only=True)
class BarPart:
    """One code in one bar."""

    code: str
    clips: int
    percent: float
    """Height, in percent of the highest bar."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The clips that a stage finished in one hour or day."""

    begin: str
    clips: int
    parts: Sequence[BarPart]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The bars of one stage."""

    stage: str
    bars: Sequence[Bar]
    highest: int
    """Clips of the highest bar."""


def colours(statuses: Sequence[StageStatus]) -> list[str]:
    """Codes with their own colour, in the order of the colours; `ok` is first."""
    totals: Counter[str] = Counter()
    for one in statuses:
        for codes in one.hours.values():
            totals.update({code: clips for code, clips in codes.items() if code in CODES})
    return [OK, *(code for code, _ in totals.most_common(NAMED_CODES))]


def timelines(statuses: Sequence[StageStatus]) -> list[Timeline]:
    """One timeline for each stage that has finished clips; all cover the same time, idle hours included."""
    hours = sorted(datetime.strptime(hour, HOUR) for one in statuses for hour in one.hours)
    if not hours:
        return []
    by_day = (hours[-1] - hours[0]) / timedelta(hours=1) >= MOST_HOURS
    begins = _begins(hours[0], hours[-1], by_day=by_day)
    named = colours(statuses)
    return [_timeline(one, begins, named, by_day=by_day) for one in statuses if one.hours]


def _begins(first: datetime, last: datetime, *, by_day: bool) -> list[str]:
    step = timedelta(days=1) if by_day else timedelta(hours=1)
    moment = first.replace(hour=0) if by_day else first
    begins = []
    while moment <= last:
        begins.append(_name(moment.strftime(HOUR), by_day=by_day))
        moment += step
    return begins


def _name(hour: str, *, by_day: bool) -> str:
    return hour[:10] if by_day else f"{hour.replace('T', ' ')}:00"


def _timeline(status: StageStatus, begins: Sequence[str], named: Sequence[str], *, by_day: bool) -> Timeline:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for hour, codes in status.hours.items():
        counts[_name(hour, by_day=by_day)].update(codes)
    highest = max(codes.total() for codes in counts.values())
    bars = [_bar(begin, counts.get(begin, {}), named, highest) for begin in begins]
    return Timeline(stage=status.stage, bars=bars, highest=highest)


def _bar(begin: str, codes: Mapping[str, int], named: Sequence[str], highest: int) -> Bar:
    """A bar with its parts from the bottom up, in the order of the colours."""
    shown = Counter({code: codes[code] for code in named if code in codes})
    shown[OTHERS] = sum(codes.values()) - shown.total()
    parts = [BarPart(code=code, clips=n, percent=round(100 * n / highest, 2)) for code, n in shown.items() if n]
    return Bar(begin=begin, clips=sum(codes.values()), parts=parts)
