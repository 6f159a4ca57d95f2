"""Weight files and their sources: bad files are refused before use, good ones are identified by digest."""

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.hub_cache import put_in_cache, use_cache
from tests.support.small_vae import HUB_ID, open_codec, small_checkpoint, weights_folder
from uniform.codecs.base import open_video_codec
from uniform.codecs.hub import open_source
from uniform.codecs.weights import load_strict, read_shapes, read_state, weights_sha256
from uniform.errors import WeightsError
from uniform.spec import PAPER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return weights_folder(tmp_path / "vae", small_checkpoint())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in a process that may not go online."""
    use_cache(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


# --- bad files


def test_missing_and_surplus_keys_are_listed(folder: Path) -> None:
    state = small_checkpoint()
    state["temporal_vae.surplus"] = state.pop("temporal_vae.quant_conv.conv.bias")
    weights_folder(folder, state)

    with pytest.raises(WeightsError) as caught:
        open_codec(folder)

    assert "1 missing:\n  temporal_vae.quant_conv.conv.bias" in str(caught.value)
    assert "1 surplus:\n  temporal_vae.surplus" in str(caught.value)


def test_a_checkpoint_of_another_size_is_refused_where_the_config_promises_the_published_one(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"micro_frame_size": 17}))

    with pytest.raises(WeightsError, match=r"269 tensors found, 517 wanted[\s\S]*of another shape[\s\S]*more"):
        open_codec(folder)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    other = weights_folder(tmp_path, {"blocks.0.attn.qkv.weight": torch.zeros(6, 2)})
    with pytest.raises(WeightsError, match=r"surplus:\n  blocks\.0\.attn\.qkv\.weight"):
        open_codec(other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(folder: Path, bad: float) -> None:
    state = small_checkpoint()
    state["temporal_vae.quant_conv.conv.bias"][2] = bad
    codec = open_codec(weights_folder(folder, state))

    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 tensors:\n  temporal_vae\.quant_conv\.conv\.bias"):
        codec.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_file_that_was_cut_short_is_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="truncated"):
        open_codec(folder)


class _Trap:
    """What a malicious pickle holds: reading it with a plain unpickler would make the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_inside_a_pickle_does_not_run(tmp_path: Path, new_format: bool) -> None:
    path, proof = tmp_path / "pytorch_model.bin", tmp_path / "it_ran"
    content = {"shift": torch.zeros(1), "trap": _Trap(proof)}
    if new_format:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))

    with pytest.raises(WeightsError, match="refused"):
        open_codec(tmp_path)

    assert not proof.exists()


def test_a_pickle_that_was_cut_short_or_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    whole, cut, other = tmp_path / "whole.pth", tmp_path / "cut.pth", tmp_path / "other.pth"
    torch.save(small_checkpoint(), whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    torch.save([1, 2, 3], other)

    with pytest.raises(WeightsError, match="truncated"):
        read_shapes(cut)
    with pytest.raises(WeightsError, match="list, not a table of tensors"):
        read_shapes(other)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["safetensors", "zip.pth", "legacy.pth"])
def test_damaged_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, form: str) -> None:
    state = {"weight": torch.ones(4, 3), "bias": torch.zeros(3)}
    path, draw, refused = tmp_path / f"model.{form}", random.Random(form), 0
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip.pth")
    whole = path.read_bytes()

    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 4, 32])):
            damaged[draw.randrange(min(600, len(damaged)))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state(path)
        except WeightsError:
            refused += 1

    assert refused > 100


@pytest.mark.parametrize(
    "config",
    [
        "[1, 2]",
        "{",
        '{"vae_temporal": {"filters": 33}}',
        '{"vae_temporal": {"filters": "many"}}',
        '{"vae_temporal": {"temporal_downsample": [true, true, true]}}',
        '{"vae_2d": {"block_out_channels": [32, 32]}}',
        '{"vae_2d": 7}',
        '{"micro_frame_size": null}',
    ],
)
def test_a_config_that_makes_no_sense_is_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=r"config\.json"):
        open_codec(folder)


def test_weights_come_as_the_wanted_type_whatever_the_file_holds(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2, dtype=torch.float16), "bias": torch.ones(2)}, tmp_path / "a.safetensors")
    with torch.device("meta"):
        layer = nn.Linear(2, 2)

    load_strict(layer, read_state(tmp_path / "a.safetensors"), "a", torch.bfloat16)

    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert torch.equal(layer(torch.ones(1, 2, dtype=torch.bfloat16)), torch.full((1, 2), 3, dtype=torch.bfloat16))


# --- digests


def test_a_digest_is_cached_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, computed = folder / "model.safetensors", []
    real = weights_sha256.__globals__["file_sha256"]
    monkeypatch.setitem(weights_sha256.__globals__, "file_sha256", lambda file: computed.append(file) or real(file))

    first, second = weights_sha256(path), weights_sha256(path)
    state = load_file(path)
    state["scale"] += 1
    save_file(state, path)
    third = weights_sha256(path)

    assert first == second != third
    assert len(computed) == 2


def test_a_damaged_cache_of_a_digest_is_not_used(folder: Path) -> None:
    path = folder / "model.safetensors"
    sha256 = weights_sha256(path)
    memory = folder / ".model.safetensors.uniform-sha256.json"
    assert memory.exists()
    memory.write_text("{")

    assert weights_sha256(path) == sha256


# --- where weights come from


@pytest.fixture(params=["hub id", "recorded name"])
def named(request: pytest.FixtureRequest) -> str | None:
    return HUB_ID if request.param == "hub id" else None


def test_a_model_in_the_cache_opens_by_hub_id_and_by_name(folder: Path, cache: Path, named: str | None) -> None:
    put_in_cache(cache, HUB_ID, folder)
    by_hub = open_video_codec("opensora-v1.2", PAPER, weights=named, device="cpu")

    assert by_hub.card == open_codec(folder).card


def test_an_unreachable_hub_is_reported_with_file_address_and_advice(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        open_video_codec("opensora-v1.2", PAPER)

    message = str(caught.value)
    assert "model.safetensors of hpcai-tech/OpenSora-VAE-v1.2" in message
    assert "https://huggingface.co" in message
    assert 'weights = "FOLDER"' in message


@pytest.mark.parametrize("weights", ["no/such/folder", "./missing", "weights.safetensors", "../up/there"])
def test_a_path_that_does_not_exist_and_is_not_a_hub_id_is_refused(cache: Path, weights: str) -> None:
    with pytest.raises(WeightsError, match="no such folder or file"):
        open_source("opensora-v1.2", weights, None)


def test_a_folder_without_the_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors and no pytorch_model\.bin"):
        open_codec(tmp_path)


def test_a_download_that_did_not_end_is_not_loaded(folder: Path, cache: Path) -> None:
    snapshot = put_in_cache(cache, HUB_ID, folder)
    (snapshot / "model.safetensors").rename(snapshot / "model.safetensors.incomplete")

    with pytest.raises(WeightsError, match=r"model\.safetensors of hpcai-tech"):
        open_video_codec("opensora-v1.2", PAPER)
