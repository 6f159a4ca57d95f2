"""Adapters: nothing changes at step 0, nothing but adapters is trained, checkpoints hold the merged network."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny_run import losses, tiny_config
from uniform.errors import ConfigError, SpecMismatchError
from uniform.model.checkpoint import load_model
from uniform.training.trainer import train

LORA = ("lora.rank=4", "optimiser.learning_rate=1e-2")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    train(tiny_config(tmp_path, "base", "steps=3"))
    return tmp_path / "base"


def test_adapters_change_their_targets_and_nothing_else(base: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "tuned", "steps=3", f'init="{base}"', *LORA, 'lora.targets=["qkv"]'))
    before = load_model(base)[0].state_dict()
    after = load_model(tmp_path / "tuned", ema=False)[0].state_dict()

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{where}_blocks.0.attn.qkv.weight" for where in ("spatial", "temporal")}
    difference = after["spatial_blocks.0.attn.qkv.weight"] - before["spatial_blocks.0.attn.qkv.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 4


def test_a_run_with_adapters_resumes_bit_for_bit(base: Path, tmp_path: Path) -> None:
    for name, stops in (("whole", (6,)), ("parts", (2, 6))):
        for steps in stops:
            result = train(tiny_config(tmp_path, name, f"steps={steps}", f'init="{base}"', *LORA))

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert result.step == 6
    one, other = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_adapters_beside_other_weights_are_refused(base: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "tuned", "steps=2", f'init="{base}"', *LORA))
    train(tiny_config(tmp_path, "other", "steps=2", "seed=5"))

    with pytest.raises(SpecMismatchError, match="lora base weights"):
        train(tiny_config(tmp_path, "tuned", "steps=4", f'init="{tmp_path / "other"}"', *LORA))


def test_adapters_without_weights_to_stand_beside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank is set, but init is not"):
        tiny_config(tmp_path, "tuned", *LORA)


def test_an_unknown_target_names_the_nearest(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a block has no linear map 'qvk'; did you mean 'qkv'"):
        train(tiny_config(tmp_path, "tuned", f'init="{base}"', "lora.rank=2", 'lora.targets=["qvk"]'))
