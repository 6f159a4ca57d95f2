"""`uniform export`: one file that opens by itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.main import app
from tests.support.tiny_run import tiny_config
from uniform.model.checkpoint import load_model
from uniform.training.trainer import train

runner = CliRunner()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    train(tiny_config(tmp_path, "run", "steps=2"))
    return tmp_path / "run"


def test_an_exported_file_holds_the_averaged_weights_and_their_metadata(run: Path) -> None:
    result = runner.invoke(app, ["export", str(run), str(run / "model.safetensors")])
    model, metadata = load_model(run / "model.safetensors")
    wanted, _ = load_model(run)

    assert result.exit_code == 0, result.output
    assert "written:" in result.output
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))
    assert metadata.step == 2
    assert metadata.identity["video codec"].startswith("dct ")


def test_raw_weights_are_another_file(run: Path) -> None:
    runner.invoke(app, ["export", str(run), str(run / "ema.safetensors")])
    runner.invoke(app, ["export", str(run), str(run / "raw.safetensors"), "--raw"])
    ema, raw = load_file(run / "ema.safetensors"), load_file(run / "raw.safetensors")

    assert ema.keys() == raw.keys()
    assert any(not torch.equal(ema[key], raw[key]) for key in ema)


def test_the_diffusers_shape_has_its_two_files(run: Path) -> None:
    result = runner.invoke(app, ["export", str(run / "checkpoints" / "step-00000002"), str(run / "hub"), "--diffusers"])
    config = json.loads((run / "hub" / "config.json").read_bytes())

    assert result.exit_code == 0, result.output
    assert config["_class_name"] == "UniForm"
    assert config["width"] == 32
    assert config["uniform"]["identity"]["spec.fps"] == "17"
    assert "task_embedder.weight" in load_file(run / "hub" / "diffusion_pytorch_model.safetensors")


def test_a_path_that_cannot_be_written_is_named_without_a_traceback(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    result = runner.invoke(app, ["export", str(run), str(tmp_path / "file" / "x.safetensors")])
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'file'}" in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr

    verbose = runner.invoke(app, ["--verbose", "export", str(run), str(tmp_path / "file" / "x.safetensors")])
    assert isinstance(verbose.exception, OSError)


def test_a_path_without_checkpoint_is_refused(tmp_path: Path) -> None:
    result = runner.invoke(app, ["export", str(tmp_path), str(tmp_path / "x.safetensors")])
    assert result.exit_code == 1
    assert "neither a weight file" in result.output


def test_another_ending_is_refused(run: Path) -> None:
    result = runner.invoke(app, ["export", str(run), str(run / "model.pth")])
    assert result.exit_code == 1
    assert "exported weights must end in .safetensors" in result.output
