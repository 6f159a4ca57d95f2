"""The report counts every clip once and escapes what comes from outside."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.brackets import InlineEngine, LogListener, run_pipeline
from pipelines.folder import RunFolder
from pipelines.prepare import make_run
from pipelines.report import make_report, render, write_report
from tests.test_pipelines.fakes import Look, fake_run, recipe, rows
from uniform.errors import PipelineError


def test_numbers_agree_with_the_run(tmp_path: Path) -> None:
    outcome = run_pipeline(fake_run(tmp_path, made=recipe(look=Look(floor=80))), InlineEngine(), LogListener())

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
    outcome = run_pipeline(fake_run(tmp_path), InlineEngine(), LogListener(), until="look")

    report = make_report(RunFolder(tmp_path))

    assert report.waiting == outcome.stages["look"].kept
    assert f"{report.waiting} not finished yet" in render(report)


def test_texts_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = [replace(row, source_uri="<script>alert(1)</script>", labels=("<b>dog",)) for row in rows(20)]
    run_pipeline(make_run(evil, recipe(), tmp_path), InlineEngine(), LogListener())

    page = write_report(RunFolder(tmp_path)).read_text()

    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;dog" in page
    assert not re.search(r"<script|<b>dog", page)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not the folder of a run"):
        make_report(RunFolder(tmp_path))
