"""Status counts by hour, and gives the time left only where a rate or an estimate is there."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.estimate.eta import forecasts
from pipelines.estimate.pilot import run_pilot
from pipelines.run.commits import read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import hours_of
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.state import read_run_state
from pipelines.run.status import StageStatus, stage_statuses
from pipelines.run.units import Units
from tests.support.fake_stages import fake_run, recipe

STAGES = recipe().names


def statuses(folder: RunFolder, stages: Sequence[str]) -> list[StageStatus]:
    units = Units.read(folder)
    return stage_statuses(folder, read_run_state(folder, stages, len(units)), units)


def test_a_clip_counts_in_the_hour_in_which_it_was_judged() -> None:
    begun = datetime(2026, 11, 25, 16, 59, 58, tzinfo=UTC)

    found = hours_of(
        [{"started": begun, "seconds": seconds, "code": code} for seconds, code in ((1, "ok"), (5, "ok"), (9, "dns"))]
    )

    assert found == {"2026-11-25T16": {"ok": 1}, "2026-11-25T17": {"dns": 1, "ok": 1}}


def test_hours_add_up_to_what_reached_each_stage(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())

    found = statuses(RunFolder(tmp_path), STAGES)
    assert len(found) == len(STAGES)
    for one in found:
        assert sum(sum(codes.values()) for codes in one.hours.values()) == one.tally.clips


def test_time_left_is_the_pace_so_far_without_pauses(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, 24), InlineBackend(), LogListener(), until="cut")
    folder = RunFolder(tmp_path)
    for unit, ended in ((0, 1_000.0), (1, 90_000.0)):  # a day's pause between the two
        path = folder.commit("cut", unit)
        commit = read_commit(path)
        assert commit is not None
        replace(commit, ended=ended, seconds=60.0).write(path)
    for unit in (2, 3):
        folder.commit("cut", unit).unlink()

    found = {one.stage: one for one in forecasts(folder, STAGES, Units.read(folder))}

    assert (found["cut"].clips_left, found["cut"].basis) == (12, "rate")
    assert found["cut"].seconds_left == pytest.approx(120.0)
    assert (found["look"].seconds_left, found["look"].basis) == (None, "none")


def test_a_stage_that_has_not_begun_has_the_time_of_the_estimate(tmp_path: Path) -> None:
    run_pilot(fake_run(tmp_path, 60), 20, InlineBackend(), LogListener())
    run_pipeline(fake_run(tmp_path, 60), InlineBackend(), LogListener(), until="cut")
    folder = RunFolder(tmp_path)
    for path in (tmp_path / "commits" / "look").iterdir():
        path.unlink()

    found = {one.stage: one for one in forecasts(folder, STAGES, Units.read(folder))}

    assert found["look"].basis == "pilot"
    assert found["look"].seconds_left is not None
    assert found["cut"].seconds_left == 0.0


def test_markers_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener(), until="cut")
    folder = RunFolder(tmp_path)
    for unit in range(4):
        commit = read_commit(folder.commit("cut", unit))
        assert commit is not None
        replace(commit, ended=None, hours={}).write(folder.commit("cut", unit))

    units = Units.read(folder)

    assert statuses(folder, ["cut"])[0].hours == {}
    assert forecasts(folder, ["cut"], units)[0].seconds_left == 0.0
