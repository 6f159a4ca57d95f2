"""Clips by stage and code, from commit markers and ledger parts alone: no recipe, no weights, no media."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.commits import Commit, read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import OK, Tally, read_part
from pipelines.run.state import RunState
from pipelines.run.units import Units


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One stage: how far it is, and the clips that reached it by code."""

    stage: str
    units: int
    units_done: int
    tally: Tally
    seconds: float
    """Of all workers together."""
    bytes: int
    hours: Mapping[str, Mapping[str, int]]
    """Hour (UTC, "2026-11-25T16") -> code -> clips that ended in it; clips of superseded units count here too."""


def stage_statuses(folder: RunFolder, state: RunState, units: Units) -> list[StageStatus]:
    """How far each stage is. A clip that is in several units counts in its last one."""
    found = []
    for stage in state.stages:
        commits = state.finished(stage)
        codes: Counter[str] = Counter()
        for commit in commits:
            codes.update(live_codes(folder, commit, units))
        tally = Tally(clips=codes.total(), codes=dict(sorted(codes.items())))
        found.append(
            StageStatus(
                stage=stage,
                units=len(units),
                units_done=len(commits),
                tally=tally,
                seconds=sum(commit.seconds for commit in commits),
                bytes=sum(commit.bytes for commit in commits),
                hours=_hours(commits),
            )
        )
    return found


def _hours(commits: Sequence[Commit]) -> dict[str, Counter[str]]:
    hours: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for commit in commits:
        for hour, codes in commit.hours.items():
            hours[hour].update(codes)
    return dict(sorted(hours.items()))


def final_tally(folder: RunFolder, state: RunState, units: Units) -> tuple[dict[str, Tally], Tally]:
    """The planned clips by code, per stage and end to end, where every unit is committed.

    Raises: PipelineError where kept + rejected + failed is not the number of planned clips.
    """
    tallies = {status.stage: status.tally for status in stage_statuses(folder, state, units)}
    codes: Counter[str] = Counter()
    for tally in tallies.values():
        codes.update({code: count for code, count in tally.codes.items() if code != OK})
    kept = tallies[state.stages[-1]].kept
    codes.update({OK: kept} if kept else {})
    final = Tally(clips=len(units.last_unit), codes=dict(sorted(codes.items())))
    final.require_complete(f"{folder.path}: the planned clips")
    return tallies, final


def live_codes(folder: RunFolder, commit: Commit, units: Units) -> Counter[str]:
    """Clips of a finished unit by code, without those of superseded units."""
    gone = units.superseded.get(commit.unit)
    if not gone:
        return Counter(commit.codes)
    table = read_part(folder.inside(commit.ledger), ["clip_id", "code"])
    pairs = zip(table["clip_id"].to_pylist(), table["code"].to_pylist(), strict=True)
    return Counter(code for clip_id, code in pairs if clip_id not in gone)


def live_rows(
    folder: RunFolder, commits: Iterable[Commit], units: Units, columns: list[str]
) -> Iterator[tuple[Commit, pa.Table]]:
    """Each commit's ledger rows, without clips that are in a later unit too. `columns` must name clip_id."""
    for commit in commits:
        table = read_part(folder.inside(commit.ledger), columns)
        gone = units.superseded.get(commit.unit)
        if gone:
            table = table.filter(pc.invert(pc.is_in(table["clip_id"], pa.array(sorted(gone)))))
        yield commit, table


def clips_with_code(folder: RunFolder, stages: Sequence[str], units: Units, code: str) -> list[str]:
    """Ids of the clips that were dropped with `code` and not planned again since."""
    found: list[str] = []
    for stage in stages:
        for commit, table in live_rows(folder, unit_commits(folder, stage, units), units, ["clip_id", "code"]):
            if commit.codes.get(code):
                found += table.filter(pc.equal(table["code"], code))["clip_id"].to_pylist()
    return found


def unit_commits(folder: RunFolder, stage: str, units: Units) -> Iterator[Commit]:
    """The commit of each finished unit of a stage, in order."""
    for unit in range(len(units)):
        commit = read_commit(folder.commit(stage, unit))
        if commit is not None:
            yield commit
