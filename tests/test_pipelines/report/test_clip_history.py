"""A clip's story is whole: what its listing said, every attempt, and where it stands now."""

from pathlib import Path

import pytest

from pipelines.clip import Row
from pipelines.report.clip_history import ClipHistory, story
from pipelines.run.folder import RunFolder
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.retry import plan_again
from pipelines.run.units import Units
from tests.support.fake_stages import Cut, fake_run, recipe, rows, seed
from uniform.errors import PipelineError

STAGES = recipe().names


def told(out: Path, row: Row) -> ClipHistory:
    return story(RunFolder(out), STAGES, Units.read(RunFolder(out)), row.clip_id)


def fate(row: Row) -> str:
    """What the fakes make of a clip."""
    return "away" if seed(row) % 5 == 0 else "short" if seed(row) % 7 == 0 else "road"


def one(kind: str, number: int = 40) -> Row:
    return next(row for row in rows(number) if fate(row) == kind)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every fifth clip was missing at first and was planned again."""
    folder = tmp_path_factory.mktemp("story")
    made = recipe(cut=Cut(fail_if_missing=str(folder / "there")))
    run_pipeline(fake_run(folder / "run", 40, made), InlineBackend(), LogListener())
    (folder / "there").touch()
    plan_again(RunFolder(folder / "run"), "missing_source", 6)
    run_pipeline(fake_run(folder / "run", 40, made), InlineBackend(), LogListener())
    return folder / "run"


def test_a_kept_clip_is_followed_to_its_shard(finished: Path) -> None:
    kept = next(row for row in rows(40) if fate(row) == "road" and told(finished, row).shard)

    found = told(finished, kept)

    assert found.row == kept
    assert [step.stage for step in found.steps] == list(STAGES)
    assert found.ending == f"finished: in {found.shard}"
    assert all(step.counts and step.attempt == 1 and step.seconds >= 0 for step in found.steps)


def test_a_rejected_clips_story_ends_where_it_left(finished: Path) -> None:
    found = told(finished, one("short"))

    assert [(step.stage, step.code) for step in found.steps] == [("cut", "too_short")]
    assert found.ending.startswith("left at 'cut' as too_short, rejected")
    assert found.ending.endswith("final")


def test_a_retried_clip_tells_both_attempts_and_which_counts(finished: Path) -> None:
    again = next(row for row in rows(40) if fate(row) == "away" and told(finished, row).shard)

    steps = told(finished, again).steps

    assert [(step.origin, step.code, step.counts) for step in steps if step.stage == "cut"] == [
        ("first", "missing_source", False),
        ("retry:missing_source", "ok", True),
    ]


def test_a_transient_failure_says_that_it_may_be_asked_again(tmp_path: Path) -> None:
    made = recipe(cut=Cut(fail_if_missing=str(tmp_path / "never")))
    run_pipeline(fake_run(tmp_path, 40, made), InlineBackend(), LogListener())

    assert "may be asked again (uniform pipeline retry)" in told(tmp_path, one("away")).ending


def test_a_clip_under_way_says_which_stage_it_waits_for(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, 40), InlineBackend(), LogListener(), until="cut")

    assert told(tmp_path, one("road")).ending == "kept so far, waits for the stage 'look'"


def test_a_clip_that_the_limit_left_out_is_not_planned_yet(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, 40, limit=1), InlineBackend(), LogListener())
    planned = Units.read(RunFolder(tmp_path)).ids(0)
    other = next(row for row in rows(40) if row.clip_id not in planned)

    assert told(tmp_path, other).ending.startswith("not planned yet")


def test_an_unknown_clip_is_named(finished: Path) -> None:
    with pytest.raises(PipelineError, match="no clip 'nobody' was planned"):
        story(RunFolder(finished), STAGES, Units.read(RunFolder(finished)), "nobody")
