"""`uniform pipeline` over real, generated clips: plan, estimate, run, status, history, retry, report."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.support.paths import ROOT
from uniform.spec import TOY
from uniform.synthetic.write import write_world


def uniform(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world("w1", TOY, tmp_path_factory.mktemp("world"), train_clips=4, test_clips=1, seed=7)


@pytest.fixture(scope="module")
def finished(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one file missing."""
    out = tmp_path_factory.mktemp("shards") / "run"
    files = sorted(path for path in manifest.parent.rglob("*") if path.suffix in (".mp4", ".mov", ".mkv", ".webm"))
    files[0].rename(files[0].with_suffix(".away"))
    result = uniform("pipeline", "run", manifest, "--recipe", "toy", "--out", out, "--inline")
    files[0].with_suffix(".away").rename(files[0])
    assert "4 clips in" in result.output
    assert "1 missing_source" in result.output
    return out


def test_plan_shows_new_units_and_writes_nothing(manifest: Path, tmp_path: Path) -> None:
    result = uniform("pipeline", "plan", manifest, "--recipe", "toy", "--out", tmp_path / "out", "--limit", 3)

    assert "3 clips in 1 units of 8; spec 'toy'" in result.output
    assert not (tmp_path / "out").exists()


def test_an_estimate_predicts_and_the_run_after_it_compares(manifest: Path, tmp_path: Path) -> None:
    asked = (manifest, "--recipe", "toy", "--out", tmp_path / "out", "--inline")

    pilot = uniform("pipeline", "estimate", *asked, "--clips", 3)
    under_way = uniform("pipeline", "status", tmp_path / "out")
    run = uniform("pipeline", "run", *asked)
    report = uniform("pipeline", "report", tmp_path / "out")

    assert "Predicted for 5 clips of 5 sources, from 3 clips" in pilot.output
    assert f"Next: uniform pipeline run {manifest} --recipe toy --out" in pilot.output
    assert "2 clips of the manifest are not planned yet" in under_way.output
    assert "5 clips in" in run.output
    for output in (run.output, report.output):
        assert "Predicted by the pilot of" in output
        assert "so far" not in output
    assert "Predicted and actual" in (tmp_path / "out" / "report.html").read_text()


def test_status_counts_by_stage_code_and_hour(finished: Path) -> None:
    result = uniform("pipeline", "status", finished)

    assert "fetch_media: 1 missing_source (uniform pipeline retry asks again)" in result.output
    assert "5 clips planned in 1 units" in result.output
    assert "Last hours of work (UTC):" in result.output
    assert "Nothing is left to do." in result.output
    assert "hours of work" not in uniform("pipeline", "status", finished, "--hours", 0).output


def test_status_shows_the_expected_end(manifest: Path, tmp_path: Path) -> None:
    uniform("pipeline", "run", manifest, "--recipe", "toy", "--out", tmp_path / "out", "--inline", "--until", "check")

    result = uniform("pipeline", "status", tmp_path / "out")

    assert "Expected end: 20" in result.output


def test_plan_of_a_changed_recipe_says_what_is_stale_and_run_refuses(finished: Path, tmp_path: Path) -> None:
    toy = (ROOT / "data_manifests" / "recipes" / "toy.toml").read_text()
    changed = tmp_path / "changed.toml"
    changed.write_text(toy.replace('use = "clip_media"', 'use = "clip_media"\nfit = "squash"'))

    plan = uniform("pipeline", "plan", finished, "--recipe", changed)
    refused = uniform("pipeline", "run", finished, "--recipe", changed, "--inline", code=1)

    assert "stale: clip_media, unit 0: provenance.options.fit: crop -> squash" in plan.output
    assert "provenance.options.fit: crop -> squash" in refused.output
    assert "--replace-stale" in refused.output


def test_history_shows_all_attempts_of_a_clip(finished: Path) -> None:
    ids = pq.read_table(finished / "index.parquet")["clip_id"].to_pylist()

    result = uniform("pipeline", "history", finished, ids[0])

    assert all(
        stage in result.output for stage in ("fetch_media", "clip_media", "encode_latents", "latents-000000.tar")
    )


def test_report_writes_a_page(finished: Path) -> None:
    uniform("pipeline", "report", finished, "--html", finished / "page.html")

    assert "missing_source" in (finished / "page.html").read_text()


def test_retry_and_run_bring_the_missing_clip_in(finished: Path) -> None:
    retried = uniform("pipeline", "retry", finished, "--code", "missing_source")
    result = uniform("pipeline", "run", finished, "--inline")

    assert "Planned again in 1 units: 1 to 1" in retried.output
    assert "5 clips in" in result.output
    assert json.loads((finished / "card.json").read_text())["counts"] == {"ok": 5}
    assert "No clip has the code" in uniform("pipeline", "retry", finished, "--code", "missing_source").output


def test_a_final_code_wants_force(finished: Path) -> None:
    refused = uniform("pipeline", "retry", finished, "--code", "truncated", code=1)

    assert "--force" in refused.output
    assert "No clip has the code" in uniform("pipeline", "retry", finished, "--code", "truncated", "--force").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "{manifest}"), "a run needs --recipe"),
        (("run", "{manifest}", "--recipe", "toy"), "a run needs --out"),
        (("run", "{manifest}", "--recipe", "toi", "--out", "{tmp}"), "did you mean 'toy'"),
        (("run", "{tmp}", "--inline"), "is not a run directory"),
        (("run", "{manifest}", "--recipe", "toy", "--out", "{tmp}", "--until", "encode"), "has no stage 'encode'"),
        (("run", "{manifest}", "--recipe", "toy", "--out", "{tmp}", "--inline", "--workers", "2"), "leave out"),
        (("status", "{tmp}"), "is not a run directory"),
        (("retry", "{tmp}", "--code", "http_429"), "is not a run directory"),
    ],
)
def test_wrong_use_is_refused_with_the_way_out(
    arguments: tuple[str, ...], message: str, manifest: Path, tmp_path: Path
) -> None:
    filled = [argument.format(manifest=manifest, tmp=tmp_path) for argument in arguments]

    result = uniform("pipeline", *filled, *(["--inline"] if "--until" in filled else []), code=1)

    assert message in result.output
    assert not list(tmp_path.glob("*.tar"))


def test_an_error_that_the_user_can_fix_exits_with_1_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "pipeline", "status", str(tmp_path)]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr
