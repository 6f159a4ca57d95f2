"""The report of a run as one HTML page: funnel, predicted and actual cost, codes over time, drop reasons, players."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.codes import CODES
from pipelines.disk import writing_to
from pipelines.estimate.comparison import Comparison, compare_with_prediction
from pipelines.estimate.eta import Forecast, forecasts
from pipelines.estimate.prediction import Estimate, format_estimate
from pipelines.report.players import DROPPED_PLAYERS, KEPT_PLAYERS, Player, players
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
from uniform.pages import render_page

EXAMPLES = 5
"""Examples per stage and code."""
LABELS = 60
"""Labels shown, the most frequent ones."""
REPORT_NAME = "report.html"
TEMPLATE = Path(__file__).with_name("page.html.j2")
FORMATS: Mapping[str, Callable[[float], str]] = {
    "count": format_count,
    "duration": format_duration,
    "bytes": format_bytes,
}
"""How the page formats an estimate and its interval."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One dropped clip, as an example of its code."""

    clip_id: str
    source: str
    reason: str


@dataclass(kw_only=True)
class DropReason:
    """One drop code of one stage."""

    stage: str
    code: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def policy(self) -> str:
        """The code's policy (`pipelines.codes.Policy`)."""
        return CODES[self.code].policy if self.code in CODES else "unknown"

    @property
    def meaning(self) -> str:
        """The code in one sentence."""
        return CODES[self.code].meaning if self.code in CODES else ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The clips of one split or one label, and how many of them are kept."""

    name: str
    clips: int
    kept: int
    waiting: int
    """Neither kept nor dropped yet."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of the page."""

    folder: str
    recipe: str
    spec: str
    clips: int
    units: int
    stages: Sequence[StageStatus]
    reasons: Sequence[DropReason]
    splits: Sequence[Group]
    labels: Sequence[Group]
    labels_left_out: int
    final: Tally
    waiting: int
    kept_digest: str
    """Digest of the ids of the kept clips: runs with equal digests kept the same clips."""
    timelines: Sequence[Timeline]
    colours: Sequence[str]
    """Codes with their own colour, in the order of the colours."""
    players: Sequence[Player]
    comparison: Comparison | None
    forecasts: Sequence[Forecast]

    @property
    def seconds_left(self) -> float | None:
        """Wall-clock seconds until the run ends; None where the rate of a stage is unknown."""
        seconds_left = [one.seconds_left for one in self.forecasts]
        return None if None in seconds_left else sum(seconds or 0.0 for seconds in seconds_left)


def make_report(folder: RunFolder) -> Report:
    """The figures of a run, finished or not. Raises PipelineError where the folder is not a run."""
    record = read_run_record(folder)
    stages = record.stages
    units = Units.read(folder)
    statuses = stage_statuses(folder, read_run_state(folder, stages, len(units)), units)
    last_codes, reasons = _last_codes(folder, stages, units)
    columns = {name: units.clips[name].to_pylist() for name in ("clip_id", "dataset", "split", "labels")}
    splits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip_id, dataset, split, names in zip(*columns.values(), strict=True):
        if clip_id in units.last_unit:
            code = last_codes.get(clip_id, "")
            splits[f"{dataset} / {split}"][code] += 1
            for name in names:
                labels[name][code] += 1
    shown = sorted(labels.items(), key=lambda item: (-item[1].total(), item[0]))
    codes = Counter(last_codes.values())
    kept = [clip_id for clip_id, code in last_codes.items() if code == OK]
    return Report(
        folder=str(folder.path),
        recipe=record.recipe,
        spec=record.spec.name,
        clips=len(units.last_unit),
        units=len(units),
        stages=statuses,
        reasons=reasons,
        splits=[_group(name, counts) for name, counts in sorted(splits.items())],
        labels=[_group(name, counts) for name, counts in shown[:LABELS]],
        labels_left_out=max(0, len(shown) - LABELS),
        final=Tally(clips=codes.total(), codes=dict(sorted(codes.items()))),
        waiting=len(units.last_unit) - codes.total(),
        kept_digest=ids_digest(kept),
        timelines=timelines(statuses),
        colours=[*colours(statuses), OTHERS],
        players=_players(folder, record, units, kept, reasons),
        comparison=compare_with_prediction(folder, stages, units),
        forecasts=forecasts(folder, stages, units),
    )


def _last_codes(folder: RunFolder, stages: Sequence[str], units: Units) -> tuple[dict[str, str], list[DropReason]]:
    """(Clip id -> the code it ended with, for kept and dropped clips; the drop reasons with examples)."""
    last_codes: dict[str, str] = {}
    reasons: list[DropReason] = []
    sources: dict[str, str] = {}
    for stage in stages:
        last = stage == stages[-1]
        by_code: dict[str, DropReason] = {}
        for commit, table in live_rows(
            folder, unit_commits(folder, stage, units), units, ["clip_id", "code", "reason"]
        ):
            if not last and set(commit.codes) <= {OK}:
                continue
            ended = table if last else table.filter(pc.not_equal(table["code"], OK))
            for clip_id, code, text in zip(*(ended[name].to_pylist() for name in ended.column_names), strict=True):
                last_codes[clip_id] = code
                if code == OK:
                    continue
                reason = by_code.setdefault(code, DropReason(stage=stage, code=code))
                reason.count += 1
                if len(reason.examples) < EXAMPLES:
                    sources = sources or _sources(units)
                    reason.examples.append(Example(clip_id=clip_id, source=sources[clip_id], reason=text))
        reasons += sorted(by_code.values(), key=lambda reason: -reason.count)
    return last_codes, reasons


def _players(
    folder: RunFolder, record: RunRecord, units: Units, kept: Sequence[str], reasons: Sequence[DropReason]
) -> list[Player]:
    """Players of kept clips, evenly spaced over the run, and of examples of each drop reason."""
    chosen = [kept[place * len(kept) // KEPT_PLAYERS] for place in range(min(KEPT_PLAYERS, len(kept)))]
    rows = units.clips.filter(pc.is_in(units.clips["clip_id"], pa.array(chosen, pa.string()))).to_pylist()
    texts = {row["clip_id"]: ", ".join(row["labels"]) or row["caption"] or row["source_uri"] for row in rows}
    dropped = [
        (DROPPED_PLAYERS, [(example.clip_id, reason.code, example.reason) for example in reason.examples])
        for reason in reasons
    ]
    clip_files = ClipFiles(folder, units, record.stages, record.spec)
    return players(clip_files, [(KEPT_PLAYERS, [(clip_id, OK, texts[clip_id]) for clip_id in chosen]), *dropped])


def _sources(units: Units) -> dict[str, str]:
    return dict(zip(units.clips["clip_id"].to_pylist(), units.clips["source_uri"].to_pylist(), strict=True))


def _group(name: str, counts: Mapping[str, int]) -> Group:
    return Group(name=name, clips=sum(counts.values()), kept=counts.get(OK, 0), waiting=counts.get("", 0))


def render(report: Report) -> str:
    """The page as HTML."""

    def estimate(value: Estimate, kind: str) -> str:
        return format_estimate(value, FORMATS[kind])

    return render_page(TEMPLATE, report=report, estimate=estimate)


def write_report(folder: RunFolder, path: Path | None = None) -> Path:
    """Write the page to `path`, or to report.html of the run. Returns its path. Raises PipelineError."""
    path = path or folder.path / REPORT_NAME
    page = render(make_report(folder))
    with writing_to(path.parent):
        write_bytes(path, page.encode())
    return path
