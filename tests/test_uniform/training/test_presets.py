"""Configurations: presets are what they say, files stand on them, wrong keys are named."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from uniform.errors import ConfigError
from uniform.latents.batches.mixture import SourceConfig
from uniform.model.transformer import UniForm
from uniform.spec import PAPER, TOY
from uniform.training.reporting.cost import clip_flops, clip_tokens
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import as_json, base_of, differences, from_json, load_config, preset_names


def test_the_presets_are_those_that_the_documents_name() -> None:
    assert preset_names() == ["best", "budget", "paper", "toy"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_fits_its_spec(name: str) -> None:
    config, spec = load_config(name), TOY if name == "toy" else PAPER
    with torch.device("meta"):
        model = UniForm(config.model, spec.video_latent, spec.audio_latent)

    assert clip_tokens(model) == (80 if name == "toy" else 6080)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert clip_flops(model) == pytest.approx(6 * parameters * clip_tokens(model), rel=0.25)


def test_the_paper_preset_is_the_papers_recipe() -> None:
    config = load_config("paper")

    assert config.data.global_batch == 32
    assert (config.optimiser.learning_rate, config.optimiser.warmup_steps) == (1e-4, 1000)
    assert config.optimiser.schedule == "constant"
    assert config.tasks.text_drop == 0.5
    assert config.tasks.draw == "batch"
    assert config.diffusion.objective == "epsilon"
    assert config.model.learned_variance
    assert (config.model.depth, config.model.width, config.model.heads) == (28, 1152, 16)


def test_every_value_that_the_paper_preset_sets_is_the_papers_or_a_marked_choice() -> None:
    text = (resources.files("uniform") / "presets" / "paper.toml").read_text()
    ours = {
        "layout",
        "share",
        "text_width",
        "qk_norm_spatial",
        "noise_both",
        "t2av",
        "betas",
        "epsilon",
        "weight_decay",
    }
    ours |= {"clip_norm", "decay", "precision", "checkpointing", "input_sq_size", "text_tokens"}
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        if key in ours:
            assert "choice:" in line, line
        if key in {"global_batch", "learning_rate", "warmup_steps", "schedule", "text_drop", "draw", "objective"}:
            assert "paper" in line, line
    assert ours <= {line.split("=")[0].strip() for line in text.splitlines()}


def test_a_file_stands_on_its_preset_and_overrides_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'preset = "toy"\nseed = 3\n[optimiser]\nlearning_rate = 5e-4\n[[data.sources]]\nfolder = "a"\nweight = 2\n'
    )
    config = load_config(str(path), ["optimiser.warmup_steps=7", "out=runs/mine", "model.width=64"])

    assert config.data.sources == (SourceConfig(folder=Path("a"), weight=2.0),)
    assert (config.optimiser.learning_rate, config.optimiser.warmup_steps, config.model.width) == (5e-4, 7, 64)
    assert config.out == Path("runs/mine")
    assert config.ema == load_config("toy").ema
    assert base_of(str(path)) == "preset 'toy'"
    changed = {key: (before, after) for key, before, after in differences(str(path), config)}
    assert changed["model.width"] == ("128", "64")
    assert changed["seed"] == ("0", "3")
    assert "ema.decay" not in changed


def test_a_configuration_survives_its_way_through_json() -> None:
    config = load_config("best", ['data.sources=[{folder="x", split="train", captions=["a"]}]'])

    assert from_json(as_json(config), Path("checkpoint.json")) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimiser.lerning_rate=1"], r"unknown key 'optimiser\.lerning_rate'; did you mean 'learning_rate'"),
        (["steps=many"], r"'steps' is 'many'; wanted a whole number"),
        (["steps=0"], r"steps is 0; it must be 1 or more"),
        (["tasks.text_drop=1.5"], r"tasks\.text_drop is 1\.5; it must be in 0 \.\. 1"),
        (["diffusion.objective=eps"], r"'diffusion\.objective' is 'eps'; wanted one of epsilon, v, flow"),
        (["no sign"], "'no sign' is not key=value"),
        (["seed.x=1"], "'seed' is 0, not a table"),
        (["validation.every=5"], r"validation\.sources is empty"),
        (["ema.decay=1.0"], r"ema\.decay is 1\.0"),
        (["tasks.t2av=0", "tasks.a2v=0", "tasks.v2a=0"], "above 0 for one task at least"),
        (["optimiser.kind=muon", "compute.parallel=fsdp"], "needs whole matrices in every process"),
        (["bad_step.spike_factor=1"], r"bad_step\.spike_factor is 1\.0; it must be > 1"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, words: list[str], message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text('preset = "toy"\nseed = 0\n')

    with pytest.raises(ConfigError, match=message):
        load_config(str(path), words)


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no preset 'papr' and no such file; did you mean 'paper'"):
        load_config("papr")
    path = tmp_path / "x.toml"
    path.write_text('\npreset = "bset"\n')
    with pytest.raises(ConfigError, match=r"x\.toml:2: there is no preset 'bset'; did you mean 'best'"):
        load_config(str(path))


def test_an_unknown_key_in_a_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('preset = "toy"\n[tasks]\ntext_dorp = 0.1\n')

    with pytest.raises(ConfigError, match=r"x\.toml:3: unknown key 'tasks\.text_dorp'; did you mean 'text_drop'"):
        load_config(str(path))


def test_defaults_are_the_papers_where_it_gives_a_value() -> None:
    paper = load_config("paper")

    assert TrainConfig().optimiser == paper.optimiser
    assert TrainConfig().model == paper.model
