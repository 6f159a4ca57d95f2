"""A run as text: tallies, plan, status, history of a clip, and predicted against actual figures."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from cli import console
from uniform.formatting import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from pipelines.cluster.nodes import NodeReport
    from pipelines.estimate.comparison import Comparison
    from pipelines.estimate.eta import Forecast
    from pipelines.estimate.prediction import Prediction
    from pipelines.report.clip_history import ClipHistory
    from pipelines.run.job import Run
    from pipelines.run.ledger import Tally
    from pipelines.run.status import StageStatus

LEFT = ("stage", "node", "problem", "why", "code", "reason", "kept in", "hour", "codes", "planned as", "began (UTC)")
"""Columns of text; the others are numbers and are aligned to the right."""


def table(*columns: str) -> Any:
    """An empty table."""
    from rich.table import Table

    made = Table()
    for column in columns:
        made.add_column(column, justify="left" if column in LEFT else "right")
    return made


def show_tallies(stages: "Mapping[str, Tally]", final: "Tally") -> None:
    """Kept and dropped clips, stage by stage and for the whole run."""
    made = table("stage", "clips", "kept", "rejected", "failed", "why")
    for name, tally in (*stages.items(), ("whole run", final)):
        codes = ", ".join(f"{count} {code}" for code, count in tally.codes.items() if code != "ok")
        made.add_row(name, str(tally.clips), str(tally.kept), str(tally.rejected), str(tally.failed), codes)
    console.show_table(made)


def show_plan(run: "Run", until: str | None) -> None:
    """Units per stage that are done, stale or pending, with the time left as far as it is known."""
    from pipelines.run.plan import make_plan
    from pipelines.run.provenance import RunInputs
    from pipelines.run.state import read_run_state
    from pipelines.stage import scope_of

    units = run.units()
    steps = run.recipe.until(until)
    state = read_run_state(run.folder, [step.name for step in steps], len(units))
    plan = make_plan(state, RunInputs(run.recipe, units), steps)
    made = table("stage", "done", "stale", "pending", "clips done", "s/clip", "time left")
    barriers = [step.name for step in steps if scope_of(step.stage) == "all"]
    for stage in plan.stages:
        tally = plan.tally(stage)
        done, stale, pending = (plan.of(stage, condition) for condition in ("done", "stale", "pending"))
        seconds = sum(one.commit.seconds for one in done if one.commit)
        left = sum(len(units.ids(one.unit)) for one in (*stale, *pending))
        if tally.clips:
            cells = (f"{seconds / tally.clips:.3f}", format_duration(seconds / tally.clips * left))
        else:
            cells = ("?", "?" if left else format_duration(0))
        made.add_row(stage, str(len(done)), str(len(stale)), str(len(pending)), str(tally.clips), *cells)
    console.show_table(made)
    total = len(units.last_unit)
    console.out.print(f"{total} clips in {len(units)} units of {run.recipe.unit_clips}; spec '{run.recipe.spec.name}'")
    for stage in barriers:
        console.out.print(f"barrier: '{stage}' begins when every unit has passed the stage before it", markup=False)
    for one in plan.stale[:10]:
        console.out.print(f"stale: {one.stage}, unit {one.unit}: {'; '.join(one.reasons)}", markup=False)
    if len(plan.stale) > 10:
        console.out.print(f"and {len(plan.stale) - 10} more stale units")


def show_run_status(path: Path, hours: int) -> None:
    """Progress, drop codes, the last `hours` hours of work and the expected end of the run in `path`."""
    from pipelines.estimate.eta import forecasts
    from pipelines.run.folder import RunFolder
    from pipelines.run.record import read_run_record
    from pipelines.run.state import read_run_state
    from pipelines.run.status import stage_statuses
    from pipelines.run.units import Units

    folder = RunFolder(path)
    stages = read_run_record(folder).stages
    units = Units.read(folder)
    statuses = stage_statuses(folder, read_run_state(folder, stages, len(units)), units)
    show_statuses(statuses, forecasts(folder, stages, units), hours)
    console.out.print(f"{len(units.last_unit)} clips planned in {len(units)} units")
    unplanned = units.clips.num_rows - len(units.last_unit)
    if unplanned:
        console.out.print(f"{unplanned} clips of the manifest are not planned yet: run again with the manifests")


def show_statuses(statuses: "Sequence[StageStatus]", forecasts: "Sequence[Forecast]", hours: int) -> None:
    """Progress of each stage, its drop codes, its last hours of work, and the expected end of the run."""
    made = table("stage", "units", "clips", "kept", "rejected", "failed", "clips/s", "bytes", "time left")
    for one, left in zip(statuses, forecasts, strict=True):
        rate = f"{one.tally.clips / one.seconds:.1f}" if one.seconds else "-"
        counts = (one.tally.clips, one.tally.kept, one.tally.rejected, one.tally.failed)
        time_left = (
            "?" if left.seconds_left is None else format_duration(left.seconds_left) if left.clips_left else "done"
        )
        units = f"{one.units_done}/{one.units}"
        made.add_row(one.stage, units, *map(str, counts), rate, format_bytes(one.bytes), time_left)
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
    console.out.print("Last hours of work (UTC):")
    console.show_table(made)


def _show_end(forecasts: "Sequence[Forecast]") -> None:
    seconds = sum(one.seconds_left or 0.0 for one in forecasts)
    unknown = [one.stage for one in forecasts if one.seconds_left is None]
    if not any(one.clips_left for one in forecasts):
        console.out.print("Nothing is left to do.")
        return
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    without = f", not counting {', '.join(unknown)}, whose rate is not known yet" if unknown else ""
    console.out.print(
        f"Expected end: {end} at the present rate ({format_duration(seconds)} left){without}", markup=False
    )


def show_clip_history(path: Path, clip_id: str) -> None:
    """Everything that happened to one clip of the run in `path`."""
    from pipelines.report.clip_history import read_clip_history
    from pipelines.run.folder import RunFolder
    from pipelines.run.record import read_run_record
    from pipelines.run.units import Units

    folder = RunFolder(path)
    history = read_clip_history(folder, read_run_record(folder).stages, Units.read(folder), clip_id)
    row = history.row
    properties = {
        "clip": row.clip_id,
        "dataset": f"{row.dataset}, split {row.split}",
        "source": f"{row.source_uri} ({row.source_kind})",
        "span": f"{row.start_ms / 1000:g} s to {row.end_ms / 1000:g} s",
        "labels": "; ".join(row.labels),
        "caption": f"{row.caption} ({row.caption_origin})" if row.caption else "",
        "file": f"{history.source} ({format_bytes(history.source_bytes or 0)})" if history.source else "",
        "now": history.status,
    }
    for name, value in properties.items():
        if value:
            console.out.print(f"{name:>9}  {value}", markup=False)
    _show_attempts(history)


def _show_attempts(history: "ClipHistory") -> None:
    if not history.steps:
        return
    made = table("unit", "planned as", "stage", "attempt", "code", "began (UTC)", "seconds", "reason", "kept in")
    for step in history.steps:
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


def show_nodes(reports: "Sequence[NodeReport]") -> None:
    """The nodes of a cluster, and what is wrong with those that cannot be used."""
    made = table("node", "cores", "accelerators", "memory", "free disk", "python", "version", "problem")
    for one in reports:
        free = "?" if one.free_bytes is None else format_bytes(one.free_bytes)
        sizes = (f"{one.cpus:g}", f"{one.gpus:g}", format_bytes(int(one.memory_bytes)), free)
        made.add_row(escape(one.name), *sizes, one.python, one.version, escape(one.problem or "none"))
    console.show_table(made)


def show_prediction(prediction: "Prediction") -> None:
    """What a pilot predicts for the whole manifest."""
    from pipelines.estimate.prediction import format_estimate

    console.out.print(
        f"Predicted for {prediction.clips:,} clips of {prediction.sources:,} sources, from {prediction.sample_clips:,} "
        f"clips; 95% intervals in brackets:"
    )
    made = table("stage", "clips kept", "time", "work", "bytes")
    for stage in prediction.stages:
        made.add_row(
            stage.stage,
            format_estimate(stage.kept, format_count),
            format_estimate(stage.wall_s, format_duration),
            format_estimate(stage.worker_s, format_duration),
            format_estimate(stage.bytes, format_bytes),
        )
    console.show_table(made)
    seconds, size = (sum(getattr(one, name).value for one in prediction.stages) for name in ("wall_s", "bytes"))
    workers = ", ".join(sorted({str(stage.workers) for stage in prediction.stages}))
    console.out.print(
        f"In total about {format_duration(seconds)} with as many workers as now ({workers}), {format_bytes(size)}."
    )
    for stage in prediction.stages:
        if stage.slowest_host:
            limit = (
                "the rate limit decides"
                if stage.wall_s.value <= stage.rate_limited_s
                else "the network or the workers decide"
            )
            console.out.print(
                f"{stage.stage}: {stage.slowest_host} alone takes at its rate limit "
                f"{format_duration(stage.rate_limited_s)}; {limit}",
                markup=False,
            )
    _show_not_sampled(prediction.not_sampled)


def _show_not_sampled(groups: "Iterable[str]") -> None:
    names = list(groups)
    if names:
        shown = "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
        console.out.print(f"Too small for the sample, so not predicted: {shown}", markup=False)


def show_run_comparison(path: Path) -> None:
    """Predicted beside actual figures of the run in `path`; nothing where there was no pilot."""
    from pipelines.estimate.comparison import compare_with_prediction
    from pipelines.run.folder import RunFolder
    from pipelines.run.record import read_run_record
    from pipelines.run.units import Units

    folder = RunFolder(path)
    show_comparison(compare_with_prediction(folder, read_run_record(folder).stages, Units.read(folder)))


def show_comparison(comparison: "Comparison | None") -> None:
    """Predicted beside actual figures; nothing where there was no pilot."""
    from pipelines.estimate.prediction import format_estimate

    if comparison is None:
        return
    so_far = "" if comparison.done else ", so far"
    console.out.print(f"Predicted by the pilot of {comparison.prediction.made}, and actual{so_far}:")
    if not comparison.same_manifest:
        console.out.print("The manifest has changed since the pilot: compare with care.")
    made = table("stage", "kept, predicted", "kept", "time, predicted", "time", "bytes, predicted", "bytes")
    for stage in comparison.stages:
        predicted, actual = stage.predicted, stage.actual
        mark = "" if stage.done else " ..."
        made.add_row(
            predicted.stage,
            format_estimate(predicted.kept, format_count),
            f"{actual.kept:,}{mark}",
            format_estimate(predicted.wall_s, format_duration),
            f"{format_duration(actual.busy_s)}{mark}",
            format_estimate(predicted.bytes, format_bytes),
            f"{format_bytes(actual.bytes)}{mark}",
        )
    console.show_table(made)


def policy(code: str) -> str:
    """How to ask again for clips with this code; empty where asking again changes nothing."""
    from pipelines.codes import CODES

    remedy = CODES[code].remedy if code in CODES else None
    return f" ({remedy} asks again)" if remedy else ""
