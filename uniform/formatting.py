"""Format counts, durations and bytes for people."""


def format_count(number: float) -> str:
    """A count with thousands separators."""
    return f"{round(number):,}"


def format_duration(seconds: float) -> str:
    """A duration in a suitable unit: s, min, h or days."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def format_bytes(number: float) -> str:
    """A number of bytes in a suitable unit: B to TB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
