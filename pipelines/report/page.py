"""A run as one HTML page: funnel, codes over time, reasons with examples and players, survivors, what was foretold."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.codes import CODES
from pipelines.disk import writing_to
from pipelines.estimate.comparison import Comparison, compare_with_prediction
from pipelines.estimate.eta import Forecast, forecasts
from pipelines.estimate.prediction import format_expected
from pipelines.report.players import KEPT_PLAYERS, LEFT_PLAYERS, Player, players
from pipelines.report.timeline import OTHERS, Timeline, colours, timelines
from pipelines.run.clip_files import ClipFiles
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import OK, Tally
from pipelines.run.record import RunRecord, read_run_record
from pipelines.run.state import read_run_state
from pipelines.run.status import StageStatus, live_rows, stage_statuses, unit_commits
from pipelines.run.units import Units
from uniform.atomic import write_bytes
from uniform.formatting import format_bytes, format_count, format_duration
from uniform.latents.format import ids_digest

EXAMPLES = 5
"""Clips shown per stage and code."""
LABELS = 60
"""Labels shown, the most frequent ones."""
REPORT_NAME = "report.html"
TEMPLATE = Path(__file__).parent / "page.html.j2"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip that left the road, for a person to look at."""

    clip_id: str
    source: str
    reason: str


@dataclass(kw_only=True)
class Reason:
    """One code of one stage."""

    stage: str
    code: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def policy(self) -> str:
        """rejected, permanent, limit, locked or transient."""
        return CODES[self.code].policy if self.code in CODES else "unknown"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return CODES[self.code].meaning if self.code in CODES else ""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A group of clips and how many of them stay."""

    name: str
    clips: int
    kept: int
    waiting: int
    """Not judged to the end yet."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows."""

    folder: str
    recipe: str
    spec: str
    clips: int
    units: int
    stages: Sequence[StageStatus]
    reasons: Sequence[Reason]
    splits: Sequence[Share]
    labels: Sequence[Share]
    labels_left_out: int
    final: Tally
    waiting: int
    obtained: str
    """Digest of the ids of the clips that stay: two labs with equal digests hold equal sets."""
    timelines: Sequence[Timeline]
    colours: Sequence[str]
    """Codes with a colour of their own, in their order."""
    players: Sequence[Player]
    comparison: Comparison | None
    forecasts: Sequence[Forecast]

    @property
    def seconds_left(self) -> float | None:
        """Until the run's end, by the clock; None where a stage's pace is not known."""
        told = [one.seconds_left for one in self.forecasts]
        return None if None in told else sum(seconds or 0.0 for seconds in told)


def make_report(folder: RunFolder) -> Report:
    """Gather a run's numbers, whether it is finished or not. Raises PipelineError where the folder is not a run."""
    record = read_run_record(folder)
    stages = record.stages
    units = Units.read(folder)
    statuses = stage_statuses(folder, read_run_state(folder, stages, len(units)), units)
    fates, reasons = _fates(folder, stages, units)
    columns = {name: units.clips[name].to_pylist() for name in ("clip_id", "dataset", "split", "labels")}
    splits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip_id, dataset, split, names in zip(*columns.values(), strict=True):
        if clip_id in units.last_unit:
            fate = fates.get(clip_id, "")
            splits[f"{dataset} / {split}"][fate] += 1
            for name in names:
                labels[name][fate] += 1
    shown = sorted(labels.items(), key=lambda item: (-item[1].total(), item[0]))
    codes = Counter(fates.values())
    kept = [clip_id for clip_id, code in fates.items() if code == OK]
    return Report(
        folder=str(folder.path),
        recipe=record.recipe,
        spec=record.spec.name,
        clips=len(units.last_unit),
        units=len(units),
        stages=statuses,
        reasons=reasons,
        splits=[_share(name, counts) for name, counts in sorted(splits.items())],
        labels=[_share(name, counts) for name, counts in shown[:LABELS]],
        labels_left_out=max(0, len(shown) - LABELS),
        final=Tally(clips=codes.total(), codes=dict(sorted(codes.items()))),
        waiting=len(units.last_unit) - codes.total(),
        obtained=ids_digest(kept),
        timelines=timelines(statuses),
        colours=[*colours(statuses), OTHERS],
        players=_players(folder, record, units, kept, reasons),
        comparison=compare_with_prediction(folder, stages, units),
        forecasts=forecasts(folder, stages, units),
    )


def _fates(folder: RunFolder, stages: Sequence[str], units: Units) -> tuple[dict[str, str], list[Reason]]:
    """Each judged clip's last code, and the reasons with examples."""
    fates: dict[str, str] = {}
    reasons: list[Reason] = []
    sources: dict[str, str] = {}
    for stage in stages:
        last = stage == stages[-1]
        by_code: dict[str, Reason] = {}
        for commit, table in live_rows(
            folder, unit_commits(folder, stage, units), units, ["clip_id", "code", "reason"]
        ):
            if not last and set(commit.codes) <= {OK}:
                continue
            left = table if last else table.filter(pc.not_equal(table["code"], OK))
            for clip_id, code, text in zip(*(left[name].to_pylist() for name in left.column_names), strict=True):
                fates[clip_id] = code
                if code == OK:
                    continue
                reason = by_code.setdefault(code, Reason(stage=stage, code=code))
                reason.count += 1
                if len(reason.examples) < EXAMPLES:
                    sources = sources or _sources(units)
                    reason.examples.append(Example(clip_id=clip_id, source=sources[clip_id], reason=text))
        reasons += sorted(by_code.values(), key=lambda reason: -reason.count)
    return fates, reasons


def _players(
    folder: RunFolder, record: RunRecord, units: Units, kept: Sequence[str], reasons: Sequence[Reason]
) -> list[Player]:
    """Clips that stay, evenly spread over the run, and examples of each reason to leave."""
    chosen = [kept[place * len(kept) // KEPT_PLAYERS] for place in range(min(KEPT_PLAYERS, len(kept)))]
    rows = units.clips.filter(pc.is_in(units.clips["clip_id"], pa.array(chosen, pa.string()))).to_pylist()
    words = {row["clip_id"]: ", ".join(row["labels"]) or row["caption"] or row["source_uri"] for row in rows}
    left = [
        (LEFT_PLAYERS, [(example.clip_id, reason.code, example.reason) for example in reason.examples])
        for reason in reasons
    ]
    clip_files = ClipFiles(folder, units, record.stages, record.spec)
    return players(clip_files, [(KEPT_PLAYERS, [(clip_id, OK, words[clip_id]) for clip_id in chosen]), *left])


def _sources(units: Units) -> dict[str, str]:
    return dict(zip(units.clips["clip_id"].to_pylist(), units.clips["source_uri"].to_pylist(), strict=True))


def _share(name: str, counts: Mapping[str, int]) -> Share:
    return Share(name=name, clips=sum(counts.values()), kept=counts.get(OK, 0), waiting=counts.get("", 0))


def render(report: Report) -> str:
    """The page, with every text from outside escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(percent=_percent, count=format_count, time=format_duration, bytes=format_bytes)
    environment.filters["expected"] = lambda expected, kind: format_expected(expected, environment.filters[kind])
    facts: dict[str, Any] = {"report": report}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0.0"


def write_report(folder: RunFolder, path: Path | None = None) -> Path:
    """Write the page; returns where. Raises PipelineError."""
    path = path or folder.path / REPORT_NAME
    page = render(make_report(folder))
    with writing_to(path.parent):
        write_bytes(path, page.encode())
    return path
