"""`uniform train` as a person types it."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from tests.support.shard_folder import write_shard_folder
from tests.support.tiny_run import tiny_overrides
from uniform.renamed import warn_renamed

runner = CliRunner()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_train_shows_its_progress_and_names_the_checkpoint(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "steps=4")])

    assert result.exit_code == 0, result.output
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step-00000004'}" in result.output
    for word in (
        "step 4/4",
        "epoch shards 0.89",
        "v2a/audio_mse",
        "clips/s",
        "data wait",
        "left 0.0 s",
        "finished after step 4",
    ):
        assert word in result.output


def test_shards_and_out_are_options(tmp_path: Path) -> None:
    words = [word for word in tiny_overrides(tmp_path, "x", "steps=1") if not word.startswith(("data.sources", "out="))]
    command = ["train", "toy", *words, "--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run")]
    result = runner.invoke(app, command)

    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "checkpoints" / "step-00000001").is_dir()


def test_split_takes_the_clips_of_one_split(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "split", clips=20, splits={"train": 14, "test": 6})
    words = [word for word in tiny_overrides(tmp_path, "run", "steps=1") if not word.startswith("data.sources")]
    command = ["train", "toy", *words, "--shards", str(tmp_path / "split"), "--split", "train"]
    result = runner.invoke(app, command)

    assert result.exit_code == 0, result.output
    assert "14 clips" in result.output
    refused = runner.invoke(app, ["train", "toy", "--split", "train"])
    assert refused.exit_code == 1
    assert "--split goes with --shards" in refused.output


def test_a_dry_run_shows_how_much_is_downloaded_and_cached(tmp_path: Path) -> None:
    words = [word for word in tiny_overrides(tmp_path, "run") if not word.startswith("data.sources")]
    command = ["train", "toy", *words, "--shards", f"file://{tmp_path / 'shards'}"]
    command += [f"data.cache_folder={tmp_path / 'cache'}", "--dry-run"]

    roomy = runner.invoke(app, [*command, "data.cache_bytes=2_000_000_000"]).output
    tight = runner.invoke(app, [*command, "data.cache_bytes=240_000"]).output
    assert "GB to download of 0.00 GB (whole shards, each once); cache of 2.00 GB" in roomy
    assert "(the bytes of each clip; the cache is smaller than the data" in tight


def test_a_dry_run_shows_what_it_would_be_and_trains_nothing(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "steps=100"), "--dry-run"])

    assert result.exit_code == 0, result.output
    for text in ("parameters", "tokens per clip      80", "4.5 steps per epoch, 22.2 epochs", "memory per device"):
        assert text in result.output
    assert "changes against preset 'toy'" in result.output
    assert "model.width: 128 -> 32" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.global_batch=32", "the sources have 18 clips together"),
        ("optimiser.accumulate=3", "3 would do"),
        ("model.text_width=96", "text features have 64 channels per token"),
        ("model.depth=2", "model.depth  1      2"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path, change: str, message: str) -> None:
    runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "steps=1")])
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "steps=1", change), "--dry-run"])

    assert result.exit_code == 1
    assert message in result.output
    allowed = [*tiny_overrides(tmp_path, "run", "steps=1", "model.depth=2"), "--dry-run", "--allow-change", "model"]
    assert runner.invoke(app, ["train", "toy", *allowed]).exit_code == 0


def test_an_unknown_key_ends_with_a_message_and_exit_code_1(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "optimiser.learning_rte=1")])

    assert result.exit_code == 1
    assert "did you mean 'learning_rate'" in result.output


def test_a_folder_without_shards_ends_with_a_message(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", "--shards", str(tmp_path), "--out", str(tmp_path / "run")])

    assert result.exit_code == 1
    assert "card.json: not found" in result.output


def test_the_old_name_of_allow_change_works_and_names_the_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_renamed.cache_clear()
    runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run", "steps=1")])
    words = [*tiny_overrides(tmp_path, "run", "steps=1", "model.depth=2"), "--dry-run", "--accept", "model"]

    assert runner.invoke(app, ["train", "toy", *words]).exit_code == 0
    assert any("'--accept' is now called '--allow-change'" in message for message in caplog.messages)
    assert "--accept" not in runner.invoke(app, ["train", "--help"]).output
