"""The report counts every clip once and escapes what comes from outside."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.estimate.pilot import run_pilot
from pipelines.report.page import make_report, render, write_report
from pipelines.report.players import KEPT_PLAYERS, LEFT_PLAYERS
from pipelines.run.folder import RunFolder
from pipelines.run.job import make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import Look, fake_run, recipe, rows
from uniform.errors import PipelineError
from uniform.latents.format import read_card


def test_numbers_agree_with_the_run(tmp_path: Path) -> None:
    outcome = run_pipeline(fake_run(tmp_path, made=recipe(look=Look(floor=80))), InlineBackend(), LogListener())

    report = make_report(RunFolder(tmp_path))

    assert report.final == outcome.final
    assert {one.stage: one.tally for one in report.stages} == dict(outcome.stages)
    assert sum(one.clips for one in report.splits) == 20
    assert sum(one.kept for one in report.splits) == outcome.final.kept
    assert {(one.stage, one.code): one.count for one in report.reasons} == {
        ("cut", "too_short"): outcome.stages["cut"].rejected,
        ("look", "silent"): outcome.stages["look"].rejected,
    }
    assert {one.name: one.clips for one in report.labels} == {"dog": 10, "bark": 10, "rain": 10}
    assert report.waiting == 0


def test_an_unfinished_run_says_how_many_clips_wait(tmp_path: Path) -> None:
    outcome = run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener(), until="look")

    report = make_report(RunFolder(tmp_path))

    assert report.waiting == outcome.stages["look"].kept
    assert f"{report.waiting} not finished yet" in render(report)


def test_texts_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = [replace(row, source_uri="<script>alert(1)</script>", labels=("<b>dog",)) for row in rows(20)]
    run_pipeline(make_run(evil, recipe(), tmp_path), InlineBackend(), LogListener())

    page = write_report(RunFolder(tmp_path)).read_text()

    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;dog" in page
    assert not re.search(r"<script|<b>dog", page)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not the folder of a run"):
        make_report(RunFolder(tmp_path))


def test_players_show_clips_that_stayed_and_clips_that_left_after_the_cutting(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, made=recipe(look=Look(floor=80))), InlineBackend(), LogListener())

    shown = Counter(player.code for player in make_report(RunFolder(tmp_path)).players)

    assert shown.keys() == {"ok", "silent"}  # too_short left before there was a clip to show
    assert shown["ok"] <= KEPT_PLAYERS
    assert shown["silent"] <= LEFT_PLAYERS


def test_the_digest_is_that_of_the_card(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())

    report = make_report(RunFolder(tmp_path))

    assert report.obtained == read_card(tmp_path).ids_digest
    assert report.obtained in render(report)


def test_the_page_shows_what_the_pilot_foretold(tmp_path: Path) -> None:
    run_pilot(fake_run(tmp_path, 60), 20, InlineBackend(), LogListener())
    run_pipeline(fake_run(tmp_path, 60), InlineBackend(), LogListener())

    page = render(make_report(RunFolder(tmp_path)))

    assert "Foretold and come true" in page
    assert "on 20 of 60 clips" in page


def test_a_page_full_of_players_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())
    monkeypatch.setattr("pipelines.report.players.PAGE_BYTES", 1_000)  # a fake clip has 400 bytes

    assert len(make_report(RunFolder(tmp_path)).players) == 2
