"""An evaluation as text: progress, the table, differences, readiness, preference."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cli import console
from uniform.formatting import format_bytes, format_duration

if TYPE_CHECKING:
    from uniform.evaluation.paired import Difference
    from uniform.evaluation.paper_tables import PaperTable
    from uniform.evaluation.protocol import ProtocolFile
    from uniform.evaluation.ratings import Preference
    from uniform.evaluation.readiness import Readiness

log = logging.getLogger(__name__)

LINE_EACH_S = 10.0
"""Where no terminal shows bars, a line at most this often, and at the end of each stage."""
SHOWN_DROPS = 5


def now_text() -> str:
    """Time of day, UTC, for records."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class EvaluationBars:
    """Stages with clips done, clips/s and time left: bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console.err, disable=not console.err.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._line_at = 0.0

    def __enter__(self) -> "EvaluationBars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        """Where a stage stands."""
        now = time.monotonic()
        begun, at_begin = self._started.setdefault(stage, (now, done))
        seconds = now - begun
        rate = (done - at_begin) / seconds if seconds > 0 and done > at_begin else 0.0
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, rate="")
        self._bars.update(self._tasks[stage], completed=done, total=total, rate=f"{rate:.1f}/s" if rate else "")
        if self._bars.disable and (now - self._line_at >= LINE_EACH_S or done == total):
            self._line_at = now
            left = f", {format_duration((total - done) / rate)} left" if rate and done < total else ""
            log.info("%s: %d of %d, %.1f/s%s", stage, done, total, rate, left)


def show_evaluation(result: Mapping[str, Any], rows: Sequence[str], folder: Path) -> None:
    """The table of result.json, drops, and where the files are."""
    from rich.table import Table

    table = Table()
    table.add_column("metric")
    names = [row for row in rows if result["rows"][row]]
    for row in names:
        table.add_column({"real_halves": "real vs real"}.get(row, row), justify="right")
    for metric, about in result["metrics"].items():
        if metric in result["unavailable"] or all(metric not in result["rows"][row] for row in names):
            continue
        column = about["column"]
        label = metric if column == metric else f"{column} ({metric})"
        table.add_row(label, *(_cell(result["rows"][row].get(metric)) for row in names))
    console.show_table(table)
    for metric, cell in result["rows"]["generated"].items():
        for note in cell.get("notes", []):
            console.out.print(f"{metric}: {note}", markup=False)
    expected, found = result["expected_clips"], result["sets"]["generated"]["clips"]
    if expected and expected != found:
        console.out.print(f"the protocol expects {expected:,} clips; these are {found:,}: N decides what a value means")
    for name, why in result["unavailable"].items():
        console.out.print(f"not computed, {name}: {why}", markup=False)
    _show_paper(result["paper"])
    _show_drops(result["drops"])
    console.out.print(f"written: {folder / 'index.html'}, {folder / 'result.json'}", markup=False)


def show_paper_table(made: "PaperTable", rules: "ProtocolFile") -> None:
    """Our rows, the floor and the printed rows; what differs and what is open."""
    from dataclasses import asdict

    from rich.table import Table

    from uniform.evaluation.paper_tables import beside_paper

    columns, rows = beside_paper(made, rules)
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.show_table(table)
    _show_paper(None if rules.protocol.paper is None else asdict(rules.protocol.paper))


def show_differences(differences: "Mapping[str, Sequence[Difference]]") -> None:
    """Paired differences; the second arm minus the first."""
    from rich.table import Table

    for title, found in differences.items():
        table = Table(title=f"{title}: second minus first (tables: with text minus without)", title_justify="left")
        for column in ("metric", "first", "second", "difference", "95% interval", "clips", "better", "second wins"):
            table.add_column(column, justify="left" if column in ("metric", "better") else "right")
        for one in found:
            wins = "" if one.second_wins is None else f"{one.second_wins:.0%}"
            interval = f"[{one.low:.4g}, {one.high:.4g}]"
            numbers = (f"{one.first:.4g}", f"{one.second:.4g}", f"{one.difference:+.4g}", interval, str(one.clips))
            table.add_row(one.metric, *numbers, one.better, wins)
        console.show_table(table)


def show_readiness(found: "Sequence[Readiness]", protocol: str | None, missing: Sequence[str] | None) -> None:
    """One line an extractor; then what is missing, and how to get it."""
    from rich.table import Table

    table = Table()
    for column in ("network", "ready", "digest", "size", "licence", "metrics"):
        table.add_column(column, overflow="fold")
    for one in found:
        known = {True: "as published", False: "recorded only", None: "-"}[one.known]
        size = format_bytes(one.bytes) if one.bytes else "-"
        ready = "yes" if one.ready else "no"
        shown = ", ".join(one.metrics[:3]) + (f" and {len(one.metrics) - 3} more" if len(one.metrics) > 3 else "")
        table.add_row(one.extractor, ready, known, size, one.licence, shown)
    console.show_table(table)
    for one in found:
        if not one.ready:
            console.out.print(f"{one.extractor}: {one.why}", markup=False)
    if missing is not None:
        verdict = "all of its metrics can be computed" if not missing else f"cannot be computed: {', '.join(missing)}"
        console.out.print(f"protocol {protocol}: {verdict}", markup=False)


def show_preference(found: "Preference") -> None:
    """What raters prefer, and how far they agree."""
    interval = f"[{found.low:.1%}, {found.high:.1%}]"
    console.out.print(f"{found.question}", markup=False)
    console.out.print(f"first: {found.first}; second: {found.second}", markup=False)
    console.out.print(
        f"the second is preferred in {found.share_second:.1%} {interval} of {found.answers} answers by {found.raters} "
        f"raters on {found.clips} clips: {'resolved' if found.resolved else 'not resolved'}",
        markup=False,
    )
    counts = found.counts
    console.out.print(f"answers: first {counts['first']}, second {counts['second']}, no difference {counts['tie']}")
    alpha = "cannot be said: no clip has two raters, or all answers are alike"
    alpha = alpha if found.alpha is None else f"{found.alpha:.2f} (Krippendorff's alpha; 1 is full, 0 is chance)"
    console.out.print(f"agreement: {alpha}; left was chosen in {found.left_share:.0%} of decided answers", markup=False)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["value"] is None:
        return "none"
    interval = "" if cell.get("low") is None else f"\n\\[{cell['low']:.3g}, {cell['high']:.3g}]"
    return (
        f"{cell['value']:.4g}{interval}\nN {cell['clips']}{', not resolved' if cell.get('resolved') is False else ''}"
    )


def _show_paper(paper: Mapping[str, Any] | None) -> None:
    if paper is None:
        return
    console.out.print(f"Beside {paper['table']}:", markup=False)
    for row in paper["rows"]:
        values = ", ".join(f"{name} {value:g}" for name, value in row["values"].items())
        console.out.print(f"  {row['model']}: {values}", markup=False)
    for title, lines in (("differs", paper["differs"]), ("left open by the paper", paper["open_questions"])):
        for line in lines:
            console.out.print(f"  {title}: {line}", markup=False)


def _show_drops(drops: Mapping[str, Any]) -> None:
    for side, counts in drops["counts"].items():
        if counts:
            words = ", ".join(f"{count} {code}" for code, count in counts.items())
            console.out.print(f"dropped, {side}: {words}", markup=False)
    for drop in drops["clips"][:SHOWN_DROPS]:
        console.out.print(f"  {drop['side']} {drop['clip_id']}: {drop['code']}: {drop['reason']}", markup=False)
    if len(drops["clips"]) > SHOWN_DROPS:
        console.out.print(f"  and {len(drops['clips']) - SHOWN_DROPS} more, in result.json")
