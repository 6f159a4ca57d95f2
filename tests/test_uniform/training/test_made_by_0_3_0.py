"""A training checkpoint of version 0.3.0 loads, resumes, samples and exports."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from tests.support.paths import ROOT
from uniform.checkpoint_format import newest_checkpoint
from uniform.export.model import export_model
from uniform.model.checkpoint import load_model
from uniform.sampling.open import open_sampler, sample_config
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import from_json
from uniform.training.trainer import train

OLD = ROOT / "tests" / "data" / "made_by_0_3_0"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shards and the training, in the working directory that the configuration's paths start from."""
    torch.set_num_threads(1)
    for name in ("finished", "training"):
        shutil.copytree(OLD / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def old_config(steps: int) -> TrainConfig:
    path = OLD / "training" / "config.json"
    return from_json({**json.loads(path.read_text()), "steps": steps}, path)


def test_a_training_of_0_3_0_resumes_with_the_same_batches_and_losses(copy: Path) -> None:
    wanted = json.loads((OLD / "steps_1_to_8.json").read_text())

    result = train(old_config(steps=8))

    assert result.step == 8
    found = read_metrics_log(copy / "training", "step")
    assert [(line["step"], line["chain"]) for line in found] == [(line["step"], line["chain"]) for line in wanted]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], abs=1e-6)
    assert result.chain == wanted[-1]["chain"]


def test_a_training_of_0_3_0_begun_anew_has_the_same_batches_and_losses(copy: Path) -> None:
    shutil.rmtree(copy / "training")
    wanted = json.loads((OLD / "steps_1_to_8.json").read_text())

    train(old_config(steps=8))

    found = read_metrics_log(copy / "training", "step")
    assert [line["chain"] for line in found] == [line["chain"] for line in wanted]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], abs=1e-6)


def test_a_checkpoint_of_0_3_0_loads_and_exports(copy: Path) -> None:
    checkpoint = newest_checkpoint(copy / "training" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "step-00000004"
    model, metadata = load_model(checkpoint)

    exported = export_model(copy / "training", copy / "model.safetensors")
    again, _ = load_model(exported.weights)

    assert metadata.step == exported.metadata.step == 4
    state = again.state_dict()
    assert len(state) > 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_0_3_0_opens_in_the_sampler(copy: Path) -> None:
    sampler = open_sampler(copy / "training", device="cpu")
    config = sample_config(sampler, solver=None, steps=None)

    assert sampler.origin["step"] == 4
    assert sampler.origin["independent_timesteps"] is False
    assert (config.solver, config.steps, config.guidance.video) == ("euler", 10, 2.0)


def test_a_checkpoint_of_0_3_0_samples_a_clip(copy: Path) -> None:
    words = ["sample", "--checkpoint", "training", "--text", "a ball", "--steps", "1", "--name", "one", "--out", "out"]

    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    assert (copy / "out" / "one.mp4").stat().st_size > 0
