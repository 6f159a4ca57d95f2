"""`uniform manifest`: what a person sees, and the exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from pipelines.manifest.build import read_rows


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "videos" / "dog").mkdir(parents=True)
    (tmp_path / "videos" / "dog" / "a.mp4").write_bytes(b"a")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nroot = "videos"\nterms = "mine"\n[listing]\nglob = ["*/*.mp4"]\ncolumns.labels = "folder"\n'
    )
    return tmp_path


def uniform(*words: object) -> Result:
    return CliRunner().invoke(app, ["manifest", *map(str, words)])


def test_check_counts_and_writes_nothing(home: Path) -> None:
    result = uniform("check", home / "own.toml")

    assert result.exit_code == 0, result.output
    assert "own: 1 clip of 1 source, 4.0 s (train 1)" in result.output
    assert sorted(path.name for path in home.iterdir()) == ["own.toml", "videos"]


def test_build_writes_the_table_that_the_pipeline_reads(home: Path) -> None:
    result = uniform("build", home / "own.toml", "--out", home / "clips.parquet")

    assert result.exit_code == 0, result.output
    assert [(row.source_uri, row.labels) for row in read_rows(home / "clips.parquet")] == [("dog/a.mp4", ("dog",))]


def test_describe_shows_terms_and_the_first_clips(home: Path) -> None:
    result = uniform("describe", home / "own.toml")

    assert result.exit_code == 0, result.output
    assert "mine" in result.output
    assert "labels  <-  folder" in result.output
    assert "dog/a.mp4" in result.output


@pytest.mark.parametrize("command", ["check", "build"])
def test_an_error_exits_with_one_and_leaves_no_table(home: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    listing = home / "own.csv"
    listing.write_text("path\n../x.mp4\n")
    (home / "own.toml").write_text('name = "own"\n[listing]\ncolumns = { source_uri = "path" }\n')

    result = uniform(command, home / "own.toml", "--listing", listing)

    assert result.exit_code == 1
    assert "own.csv:2: column 'path': found '../x.mp4'" in result.output
    assert not (home / "manifest.parquet").exists()


def test_a_listing_that_must_be_given_is_asked_for(home: Path) -> None:
    (home / "own.toml").write_text('name = "own"\nobtain = "by post"\n[listing]\ncolumns = { source_uri = "path" }\n')

    result = uniform("check", home / "own.toml")

    assert result.exit_code == 1
    assert "(by post). Give it by --listing FILE" in result.output


def test_files_may_lie_elsewhere(home: Path) -> None:
    (home / "videos").rename(home / "moved")

    assert uniform("check", home / "own.toml").exit_code == 1
    assert uniform("check", home / "own.toml", "--root", home / "moved").exit_code == 0


def test_missing_files_are_warned_about_and_do_not_stop(home: Path) -> None:
    (home / "own.csv").write_text("path\ndog/a.mp4\ndog/gone.mp4\n")
    (home / "own.toml").write_text(
        'name = "own"\nroot = "videos"\n[listing]\nfile = "own.csv"\ncolumns = { source_uri = "path" }\n'
    )

    result = uniform("check", home / "own.toml")

    assert result.exit_code == 0, result.output
    assert "1 warning" in result.output
    assert "own.csv:3" in result.output
