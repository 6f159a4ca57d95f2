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
                yield clip.drop(self.code, f"the moon is in phase {number}") if odd else clip

        return judged


def test_unknown_reasons_are_counted_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    result = run_pipeline(fake_run(tmp_path, made=recipe(cut=Puzzled())), InlineBackend(), LogListener())

    (warning,) = [line for line in caplog.messages if "unknown" in line]
    count = result.final.codes["unknown"]
    assert count > 3
    assert f"cut: {count} clips were dropped for reasons that no code fits yet" in warning
    assert "'the moon is in phase " in warning
    assert f"uniform pipeline retry {tmp_path} --code unknown" in warning


def test_a_full_disk_of_a_source_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    run_pipeline(fake_run(tmp_path, made=recipe(cut=Puzzled(code="disk_full"))), InlineBackend(), LogListener())

    (warning,) = [line for line in caplog.messages if "disk_full" in line]
    assert "clips met a full disk (disk_full)" in warning
    assert f"uniform pipeline retry {tmp_path} --code disk_full" in warning


def test_a_run_without_such_codes_logs_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())

    assert caplog.messages == []
