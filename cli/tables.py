"""How a run looks as text: its tallies, and what a pilot foretold beside what came of it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from cli import console
from pipelines.estimate.prediction import format_expected
from uniform.formatting import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from pipelines.estimate.comparison import Comparison
    from pipelines.estimate.eta import Forecast
    from pipelines.estimate.prediction import Prediction
    from pipelines.report.clip_history import ClipHistory
    from pipelines.run.ledger import Tally
    from pipelines.run.status import StageStatus

LEFT = ("stage", "why", "code", "reason", "kept in", "hour", "codes", "planned as", "began (UTC)")
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


def show_statuses(statuses: "Sequence[StageStatus]", forecasts: "Sequence[Forecast]", hours: int) -> None:
    """How far each stage is, its codes, its last hours of work, and when the run will end."""
    made = table("stage", "units", "clips", "kept", "rejected", "failed", "clips/s", "bytes", "time left")
    for one, left in zip(statuses, forecasts, strict=True):
        pace = f"{one.tally.clips / one.seconds:.1f}" if one.seconds else "-"
        numbers = (one.tally.clips, one.tally.kept, one.tally.rejected, one.tally.failed)
        time_left = (
            "?" if left.seconds_left is None else format_duration(left.seconds_left) if left.clips_left else "done"
        )
        units = f"{one.units_done}/{one.units}"
        made.add_row(one.stage, units, *map(str, numbers), pace, format_bytes(one.bytes), time_left)
    console.show_table(made)
    for one in statuses:
        for code, count in one.tally.codes.items():
            if code != "ok":
                console.out.print(f"  {one.stage}: {count} {code}{policy(code)}", markup=False)
    _show_hours(statuses, hours)
    _show_end(forecasts)


def _show_hours(statuses: "Sequence[StageStatus]", hours: int) -> None:
    by_hour = [(hour, one.stage, codes) for one in statuses for hour, codes in one.hours.items()]
    shown = sorted({hour for hour, _, _ in by_hour})[-hours:] if hours else []
    if not shown:
        return
    made = table("hour", "stage", "clips", "kept", "codes")
    for hour, stage, codes in sorted(by_hour, key=lambda line: line[0]):
        if hour in shown:
            others = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()) if code != "ok")
            made.add_row(
                f"{hour.replace('T', ' ')}:00", stage, str(sum(codes.values())), str(codes.get("ok", 0)), others
            )
    console.out.print("Hours of work (UTC), the last ones:")
    console.show_table(made)


def _show_end(forecasts: "Sequence[Forecast]") -> None:
    seconds = sum(one.seconds_left or 0.0 for one in forecasts)
    unknown = [one.stage for one in forecasts if one.seconds_left is None]
    if not any(one.clips_left for one in forecasts):
        console.out.print("Nothing is left to do.")
        return
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    but = f", without {', '.join(unknown)}, whose pace is not known yet" if unknown else ""
    console.out.print(
        f"Expected end: {end} if it goes on now as it went ({format_duration(seconds)}){but}", markup=False
    )


def show_clip_history(story: "ClipHistory") -> None:
    """Everything that is known of one clip."""
    row = story.row
    end_ms = row.start_ms + row.duration_ms
    facts = {
        "clip": row.clip_id,
        "data set": f"{row.dataset}, split {row.split}",
        "source": f"{row.source_uri} ({row.source_kind})",
        "span": f"{row.start_ms / 1000:g} s to {end_ms / 1000:g} s",
        "labels": "; ".join(row.labels),
        "caption": f"{row.caption} ({row.caption_origin})" if row.caption else "",
        "file": f"{story.source} ({format_bytes(story.source_bytes or 0)})" if story.source else "",
        "now": story.ending,
    }
    for name, value in facts.items():
        if value:
            console.out.print(f"{name:>9}  {value}", markup=False)
    if not story.steps:
        return
    made = table("unit", "planned as", "stage", "try", "code", "began (UTC)", "seconds", "reason", "kept in")
    for step in story.steps:
        began = step.started.strftime("%Y-%m-%d %H:%M:%S")
        code = step.code if step.counts else f"({step.code}: replaced)"
        reason, output = step.reason, step.output or ""
        made.add_row(
            str(step.unit),
            step.origin,
            step.stage,
            str(step.attempt),
            code,
            began,
            f"{step.seconds:.2f}",
            escape(reason),
            escape(output),
        )
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
            format_expected(stage.kept, format_count),
            format_expected(stage.wall_s, format_duration),
            format_expected(stage.worker_s, format_duration),
            format_expected(stage.bytes, format_bytes),
        )
    console.show_table(made)
    seconds, size = (sum(getattr(one, name).value for one in prediction.stages) for name in ("wall_s", "bytes"))
    workers = ", ".join(sorted({str(stage.workers) for stage in prediction.stages}))
    console.out.print(
        f"In all about {format_duration(seconds)} with as many workers as now ({workers}), {format_bytes(size)}."
    )
    for stage in prediction.stages:
        if stage.paced_host:
            limit = (
                "its pace decides" if stage.wall_s.value <= stage.rate_limited_s else "the line or the workers decide"
            )
            console.out.print(
                f"{stage.stage}: at its rate limit {stage.paced_host} alone takes "
                f"{format_duration(stage.rate_limited_s)}; {limit}",
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
            format_expected(expected.kept, format_count),
            f"{cost.kept:,}{mark}",
            format_expected(expected.wall_s, format_duration),
            f"{format_duration(cost.busy_s)}{mark}",
            format_expected(expected.bytes, format_bytes),
            f"{format_bytes(cost.bytes)}{mark}",
        )
    console.show_table(made)


def policy(code: str) -> str:
    """A remark on a code that a retry may mend."""
    from pipelines.codes import CODES

    remedy = CODES[code].remedy if code in CODES else None
    return f" ({remedy} asks again)" if remedy else ""
