"""What a run looks like on a terminal and elsewhere."""

import io
import logging
import re

import pytest
from rich.console import Console

from cli import console
from cli.progress import Bars, SampleBars
from pipelines.run.commits import Commit
from pipelines.run.ledger import Tally
from pipelines.run.pipeline import LogListener
from uniform.sampling.sampler import Progress

COMMIT = Commit(
    stage="check",
    unit=3,
    inputs={},
    kept="",
    codes={"ok": 5, "silent": 2, "unknown": 1},
    clips=8,
    ledger="",
    attempt=1,
    seconds=0.5,
    worker="here",
)


def test_bars_count_kept_rejected_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=160)
    monkeypatch.setattr(console, "err", screen)

    with Bars() as bars:
        bars.stage_started("check", units=2, clips=16, done=Tally(clips=4, codes={"ok": 4}))
        bars.unit_done(COMMIT)
        bars.warn("stage 'check', unit 4: its worker died [1 so far]")

    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())  # type: ignore[attr-defined]
    for part in ("check", "12/20", "9 kept", "2 rejected", "1 failed", "clips/s", "its worker died [1 so far]"):
        assert part in shown


def test_log_lines_say_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    LogListener().unit_done(COMMIT)

    assert caplog.messages == ["check: unit 3, 8 clips = 5 kept + 2 rejected + 1 failed, 0.5 s"]


def test_without_a_terminal_progress_of_samples_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(console, "err", Console(file=io.StringIO(), force_terminal=False))

    with caplog.at_level(logging.INFO), SampleBars(3, 2) as bars:
        for done, step in ((0, 1), (0, 2), (2, 1), (2, 2), (3, 0)):
            bars.show(Progress(done, 3, step, 2))

    assert [record.message for record in caplog.records] == ["2 of 3 samples done", "3 of 3 samples done"]
