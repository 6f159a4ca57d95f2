"""The report counts every clip once and escapes what comes from outside."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.estimate.pilot import run_pilot
from pipelines.report.page import make_report, render, write_report
from pipelines.report.players import DROPPED_PLAYERS, KEPT_PLAYERS
from pipelines.run.folder import RunFolder
from pipelines.run.job import make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import Look, fake_run, recipe, rows
from uniform.errors import PipelineError
from uniform.latents.format import read_card


def test_numbers_agree_with_the_run(tmp_path: Path) -> None:
    result = run_pipeline(fake_run(tmp_path, made=recipe(look=Look(floor=80))), InlineBackend(), LogListener())

    report = make_report(RunFolder(tmp_path))

    assert report.final == result.final
    assert {one.stage: one.tally for one in report.stages} == dict(result.stages)
    assert sum(one.clips for one in report.splits) == 20
    assert sum(one.kept for one in report.splits) == result.final.kept
    assert {(one.stage, one.code): one.count for one in report.reasons} == {
        ("cut", "too_short"): result.stages["cut"].rejected,
        ("look", "silent"): result.stages["look"].rejected,
    }
    assert {one.name: one.clips for one in report.labels} == {"dog": 10, "bark": 10, "rain": 10}
    assert report.waiting == 0


def test_the_report_of_an_unfinished_run_counts_the_waiting_clips(tmp_path: Path) -> None:
    result = run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener(), until="look")

    report = make_report(RunFolder(tmp_path))

    assert report.waiting == result.stages["look"].kept
    assert f"{report.waiting} not finished yet" in render(report)


def test_text_from_manifests_is_escaped(tmp_path: Path) -> None:
    evil = [replace(row, source_uri="<script>alert(1)</script>", labels=("<b>dog",)) for row in rows(20)]
    run_pipeline(make_run(evil, recipe(), tmp_path), InlineBackend(), LogListener())

    page = write_report(RunFolder(tmp_path)).read_text()

    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;dog" in page
    assert not re.search(r"<script|<b>dog", page)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not a run directory"):
        make_report(RunFolder(tmp_path))


def test_players_show_kept_clips_and_clips_dropped_after_they_were_cut(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path, made=recipe(look=Look(floor=80))), InlineBackend(), LogListener())

    shown = Counter(player.code for player in make_report(RunFolder(tmp_path)).players)

    assert shown.keys() == {"ok", "silent"}  # too_short drops before there is a clip to show
    assert shown["ok"] <= KEPT_PLAYERS
    assert shown["silent"] <= DROPPED_PLAYERS


def test_the_digest_of_kept_clips_equals_that_of_the_card(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())

    report = make_report(RunFolder(tmp_path))

    assert report.kept_digest == read_card(tmp_path).ids_digest
    assert report.kept_digest in render(report)


def test_the_page_shows_the_prediction_of_the_pilot(tmp_path: Path) -> None:
    run_pilot(fake_run(tmp_path, 60), 20, InlineBackend(), LogListener())
    run_pipeline(fake_run(tmp_path, 60), InlineBackend(), LogListener())

    page = render(make_report(RunFolder(tmp_path)))

    assert "Predicted and actual" in page
    assert "from 20 of 60 clips" in page


def test_players_stop_when_the_page_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pipeline(fake_run(tmp_path), InlineBackend(), LogListener())
    monkeypatch.setattr("pipelines.report.players.PAGE_BYTES", 1_000)  # a fake clip has 400 bytes

    assert len(make_report(RunFolder(tmp_path)).players) == 2
