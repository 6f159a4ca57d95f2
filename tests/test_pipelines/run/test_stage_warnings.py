"""What no code fits, and hosts that rest, are said aloud when a stage ends."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.clip import Clip
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.stage import Context, Work
from tests.support.fake_stages import Cut, fake_run, recipe


@dataclass(frozen=True, kw_only=True)
class Puzzled(Cut):
    """A stage whose every third clip fails in a way that nobody has seen, or with another code."""

    code: str = "unknown"

    def open(self, context: Context) -> Work:
        work = super().open(context)

        def judged(clips: Iterator[Clip]) -> Iterator[Clip]:
            for number, clip in enumerate(work(clips)):
                odd = number % 3 == 0 and clip.dropped is None
                yield clip.drop(self.code, f"the moon is in house {number}") if odd else clip

        return judged


def test_unknown_reasons_are_counted_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    outcome = run_pipeline(fake_run(tmp_path, made=recipe(cut=Puzzled())), InlineBackend(), LogListener())

    (told,) = [line for line in caplog.messages if "unknown" in line]
    count = outcome.final.codes["unknown"]
    assert count > 3
    assert f"cut: {count} clips left for reasons that no code fits yet" in told
    assert "'the moon is in house " in told
    assert f"uniform pipeline retry {tmp_path} --code unknown" in told


def test_a_full_disk_elsewhere_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    run_pipeline(fake_run(tmp_path, made=recipe(cut=Puzzled(code="disk_full"))), InlineBackend(), LogListener())

    (told,) = [line for line in caplog.messages if "disk_full" in line]
    assert "clips found no space left on a disk (disk_full)" in told
    assert f"uniform pipeline retry {tmp_path} --code disk_full" in told


def test_a_run_without_surprises_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())

    assert caplog.messages == []
