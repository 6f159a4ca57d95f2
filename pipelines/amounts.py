"""Numbers as people read them: clips, times, bytes, and what is expected with its interval."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.prediction import Expected


def expected_text(expected: "Expected", text: Callable[[float], str]) -> str:
    """A value and its interval, each written by `text`."""
    if expected.low is None or expected.high is None:
        return f"{text(expected.value)} [one unit: no interval]"
    if expected.low == expected.high:
        return text(expected.value)
    return f"{text(expected.value)} [{text(expected.low)} to {text(expected.high)}]"


def count_text(number: float) -> str:
    """A number of clips."""
    return f"{round(number):,}"


def time_text(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def bytes_text(number: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
