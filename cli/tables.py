"""How a run looks as text: its tallies, and what a pilot foretold beside what came of it."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cli import console

if TYPE_CHECKING:
    from pipelines.ledger import Tally
    from pipelines.outcome import Comparison
    from pipelines.prediction import Expected, Prediction

LEFT = ("stage", "why", "code", "reason", "kept in", "hour", "codes")
"""Columns of words; the others are numbers and stand to the right."""


def table(*columns: str) -> Any:
    """An empty table."""
    from rich.table import Table

    made = Table()
    for column in columns:
        made.add_column(column, justify="left" if column in LEFT else "right")
    return made


def show_tallies(stages: "Mapping[str, Tally]", final: "Tally") -> None:
    """What became of the clips, stage by stage and on the whole road."""
    made = table("stage", "clips", "kept", "rejected", "failed", "why")
    for name, tally in (*stages.items(), ("whole road", final)):
        codes = ", ".join(f"{count} {code}" for code, count in tally.codes.items() if code != "ok")
        made.add_row(name, str(tally.clips), str(tally.kept), str(tally.rejected), str(tally.failed), codes)
    console.show_table(made)


def show_prediction(prediction: "Prediction") -> None:
    """What a pilot says about the whole manifest."""
    console.out.print(
        f"Foretold for {prediction.clips:,} clips of {prediction.sources:,} sources, from {prediction.sample_clips:,} "
        f"clips; in brackets what holds 19 times in 20:"
    )
    made = table("stage", "clips kept", "time", "work", "bytes")
    for stage in prediction.stages:
        made.add_row(
            stage.stage,
            _expected(stage.kept, count_text),
            _expected(stage.wall_s, time_text),
            _expected(stage.worker_s, time_text),
            _expected(stage.bytes, bytes_text),
        )
    console.show_table(made)
    seconds, size = (sum(getattr(one, name).value for one in prediction.stages) for name in ("wall_s", "bytes"))
    workers = ", ".join(sorted({str(stage.workers) for stage in prediction.stages}))
    console.out.print(f"In all about {time_text(seconds)} with as many workers as now ({workers}), {bytes_text(size)}.")
    for stage in prediction.stages:
        if stage.paced_host:
            limit = "its pace decides" if stage.wall_s.value <= stage.paced_s else "the line or the workers decide"
            console.out.print(
                f"{stage.stage}: at its pace {stage.paced_host} alone takes {time_text(stage.paced_s)}; {limit}",
                markup=False,
            )
    _show_not_sampled(prediction.not_sampled)


def _show_not_sampled(groups: "Iterable[str]") -> None:
    names = list(groups)
    if names:
        shown = "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
        console.out.print(f"Too small to be in the sample, so not foretold: {shown}", markup=False)


def show_comparison(comparison: "Comparison | None") -> None:
    """What a pilot foretold beside what came of it; nothing where there was no pilot."""
    if comparison is None:
        return
    so_far = "" if comparison.done else ", so far"
    console.out.print(f"Foretold by the pilot of {comparison.prediction.made}, and come of it{so_far}:")
    if not comparison.same_manifest:
        console.out.print("The manifest has changed since: compare with care.")
    made = table("stage", "kept, foretold", "kept", "time, foretold", "time", "bytes, foretold", "bytes")
    for stage in comparison.stages:
        expected, cost = stage.expected, stage.cost
        mark = "" if stage.done else " ..."
        made.add_row(
            expected.stage,
            _expected(expected.kept, count_text),
            f"{cost.kept:,}{mark}",
            _expected(expected.wall_s, time_text),
            f"{time_text(cost.busy_s)}{mark}",
            _expected(expected.bytes, bytes_text),
            f"{bytes_text(cost.bytes)}{mark}",
        )
    console.show_table(made)


def _expected(expected: "Expected", text: Any) -> str:
    if expected.low is None or expected.high is None:
        return f"{text(expected.value)} [one unit: no interval]"
    if expected.low == expected.high:
        return str(text(expected.value))
    return f"{text(expected.value)} [{text(expected.low)} to {text(expected.high)}]"


def policy(code: str) -> str:
    """A remark on a code that a retry may mend."""
    from pipelines.codes import CODES

    return " (uniform pipeline retry asks again)" if code in CODES and CODES[code].policy == "transient" else ""


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
