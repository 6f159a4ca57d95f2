"""`uniform.evaluate` gives what `uniform evaluate` writes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import uniform
from cli.main import app
from tests.support.small_evaluation import write_clips
from uniform.errors import ConfigError, InputError

METRIC = "av_align_brightness_v2"


def test_the_result_is_that_of_the_command(tmp_path: Path) -> None:
    write_clips(tmp_path / "real", 6)
    write_clips(tmp_path / "samples", 6, noise=30)
    stages: list[str] = []

    found = uniform.evaluate(
        tmp_path / "samples",
        str(tmp_path / "real"),
        metrics=[METRIC],
        out=tmp_path / "api",
        progress=lambda stage, done, total: stages.append(stage),
    )
    words = ["evaluate", str(tmp_path / "samples"), "--real", str(tmp_path / "real"), "--metrics", METRIC]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "cli")])

    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "cli" / "result.json").read_text())
    assert json.loads(json.dumps(found["rows"])) == written["rows"]
    assert METRIC in found["rows"]["generated"]
    assert stages
    assert {path.name for path in (tmp_path / "api").iterdir()} == {path.name for path in (tmp_path / "cli").iterdir()}


def test_what_cannot_be_compared_is_refused_with_one_clear_error(tmp_path: Path) -> None:
    write_clips(tmp_path / "real", 1)
    with pytest.raises(ConfigError, match="there is no protocol 'ofline'"):
        uniform.evaluate(tmp_path, tmp_path / "real", "ofline")
    with pytest.raises(InputError, match="nowhere"):
        uniform.evaluate(tmp_path / "nowhere", tmp_path / "real", metrics=[METRIC])
