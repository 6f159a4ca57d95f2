"""A clip's history holds its manifest row, every attempt, and its status now."""

from pathlib import Path

import pytest

from pipelines.clip import Row
from pipelines.report.clip_history import ClipHistory, read_clip_history
from pipelines.run.folder import RunFolder
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.retry import plan_again
from pipelines.run.units import Units
from tests.support.fake_stages import Cut, fake_run, recipe, rows, seed
from uniform.errors import PipelineError

STAGES = recipe().names


def history(out: Path, row: Row) -> ClipHistory:
    return read_clip_history(RunFolder(out), STAGES, Units.read(RunFolder(out)), row.clip_id)


def result(row: Row) -> str:
    """How the fake stages end a clip: its source missing at first, dropped as too short, or kept."""
    return "missing" if seed(row) % 5 == 0 else "short" if seed(row) % 7 == 0 else "kept"


def one(kind: str, number: int = 40) -> Row:
    return next(row for row in rows(number) if result(row) == kind)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every fifth clip was missing at first and was planned again."""
    folder = tmp_path_factory.mktemp("history")
    made = recipe(cut=Cut(fail_if_missing=str(folder / "there")))
    run_pipeline(fake_run(folder / "run", 40, made), InlineBackend(), LogListener())
    (folder / "there").touch()
    plan_again(RunFolder(folder / "run"), "missing_source", 6)
    run_pipeline(fake_run(folder / "run", 40, made), InlineBackend(), LogListener())
    return folder / "run"


def test_the_history_of_a_kept_clip_ends_with_its_shard(finished: Path) -> None:
    kept = next(row for row in rows(40) if result(row) == "kept" and history(finished, row).shard)

    found = history(finished, kept)

    assert found.row == kept
    assert [step.stage for step in found.steps] == list(STAGES)
    assert found.status == f"finished: in {found.shard}"
    assert all(step.counts and step.attempt == 1 and step.seconds >= 0 for step in found.steps)


def test_the_history_of_a_rejected_clip_ends_at_the_stage_that_dropped_it(finished: Path) -> None:
    found = history(finished, one("short"))

    assert [(step.stage, step.code) for step in found.steps] == [("cut", "too_short")]
    assert found.status.startswith("dropped at 'cut' as too_short (rejected)")
    assert found.status.endswith("final")


def test_a_retried_clip_shows_both_attempts_and_which_one_counts(finished: Path) -> None:
    again = next(row for row in rows(40) if result(row) == "missing" and history(finished, row).shard)

    steps = history(finished, again).steps

    assert [(step.origin, step.code, step.counts) for step in steps if step.stage == "cut"] == [
        ("first", "missing_source", False),
        ("retry:missing_source", "ok", True),
    ]


def test_a_retryable_drop_names_the_command_that_tries_again(tmp_path: Path) -> None:
    made = recipe(cut=Cut(fail_if_missing=str(tmp_path / "never")))
    run_pipeline(fake_run(tmp_path, 40, made), InlineBackend(), LogListener())

    assert "to try again: uniform pipeline retry" in history(tmp_path, one("missing")).status


def test_an_unfinished_clip_shows_the_stage_that_it_waits_for(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, 40), InlineBackend(), LogListener(), until="cut")

    assert history(tmp_path, one("kept")).status == "kept so far, waiting for the stage 'look'"


def test_a_clip_outside_the_limit_is_not_planned_yet(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, 40, limit=1), InlineBackend(), LogListener())
    planned = Units.read(RunFolder(tmp_path)).ids(0)
    other = next(row for row in rows(40) if row.clip_id not in planned)

    assert history(tmp_path, other).status.startswith("not planned yet")


def test_an_unknown_clip_is_named(finished: Path) -> None:
    with pytest.raises(PipelineError, match="no clip 'nobody' was planned"):
        read_clip_history(RunFolder(finished), STAGES, Units.read(RunFolder(finished)), "nobody")
