"""`uniform shards`: lint, info and explain."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import fake_run
from tests.support.tiny_run import tiny_config
from uniform.training.trainer import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "run"
    run_pipeline(fake_run(out), InlineBackend(), LogListener())
    return out


def test_lint_says_how_many_clips_are_sound(shards: Path) -> None:
    result = CliRunner().invoke(app, ["shards", "lint", str(shards)])

    assert (result.exit_code, "clips, no problem found" in result.output) == (0, True)


def test_lint_ends_with_code_1_on_a_shard_cut_in_half(shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        if path.is_file():
            content = path.read_bytes()
            (tmp_path / path.name).write_bytes(
                content[: len(content) // 2] if "latents-000000" in path.name else content
            )

    result = CliRunner().invoke(app, ["shards", "lint", str(tmp_path)])

    assert result.exit_code == 1
    assert "latents-000000.tar" in result.output
    assert "make the units again" in result.output


def test_info_shows_spec_codecs_and_captions(shards: Path) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["shards", "info", str(shards)])

    assert result.exit_code == 0
    for part in ("spec.fps: 17", "video codec: fake", "captions 'labels': letters", "split train", "latents: 4 shards"):
        assert part in result.output


def test_explain_shows_the_hardest_clips_of_a_run_with_or_without_caption_tables(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=6", "log.sample_losses=true"))
    command = ["shards", "explain", str(tmp_path / "shards"), str(tmp_path / "run"), "--since", "1"]
    result = CliRunner().invoke(app, [*command, "-n", "2", "--out", str(tmp_path / "hard.parquet")])

    assert result.exit_code == 0, result.output
    assert "labels" in result.output
    shown = [line for line in result.output.splitlines() if " labels " in line]
    assert len(shown) == 2
    assert pq.read_table(tmp_path / "hard.parquet")["clip_id"][0].as_py() in shown[0]
