"""Weight files and where they come from: bad files are refused before anything runs, good ones are known by digest."""

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.hub_cache import COMMIT, put_in_cache, use_cache
from tests.standin import stand_in_state
from uniform.codecs import base
from uniform.codecs.base import codec_module, open_video_codec
from uniform.codecs.catalogue import catalogue, published
from uniform.codecs.fetch import fetch, verify
from uniform.codecs.hub import open_source
from uniform.codecs.record import RECORD_NAME, read_records
from uniform.codecs.weights import load_strict, read_shapes, read_state, weights_sha256
from uniform.errors import ConfigError, WeightsError
from uniform.spec import PAPER

DATA = Path(__file__).parents[1] / "data"
HUB_ID = "hpcai-tech/OpenSora-VAE-v1.2"
SMALL = {
    "micro_frame_size": 17,
    "vae_2d": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
    "vae_temporal": {"filters": 32, "num_res_blocks": 1},
}


def _checkpoint() -> dict[str, Tensor]:
    shapes = json.loads((DATA / "opensora_vae_small.keys.json").read_text())
    return stand_in_state(shapes, {"scale": torch.full((1, 4, 1, 1, 1), 2.0)})


def _folder(path: Path, state: dict[str, Tensor]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(SMALL))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _folder(tmp_path / "vae", _checkpoint())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in a process that may not go online."""
    use_cache(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


def _open(path: Path | str) -> base.VideoCodec:
    return open_video_codec("opensora-v1.2", PAPER, weights=str(path), device="cpu")


# --- bad files


def test_missing_and_surplus_keys_are_listed(folder: Path) -> None:
    state = _checkpoint()
    state["temporal_vae.surplus"] = state.pop("temporal_vae.quant_conv.conv.bias")
    _folder(folder, state)

    with pytest.raises(WeightsError) as caught:
        _open(folder)

    assert "1 missing:\n  temporal_vae.quant_conv.conv.bias" in str(caught.value)
    assert "1 surplus:\n  temporal_vae.surplus" in str(caught.value)


def test_a_checkpoint_of_another_size_is_refused_where_the_config_promises_the_published_one(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"micro_frame_size": 17}))

    with pytest.raises(WeightsError, match=r"269 tensors found, 517 wanted[\s\S]*of another shape[\s\S]*more"):
        _open(folder)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    other = _folder(tmp_path, {"blocks.0.attn.qkv.weight": torch.zeros(6, 2)})
    with pytest.raises(WeightsError, match=r"surplus:\n  blocks\.0\.attn\.qkv\.weight"):
        _open(other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(folder: Path, bad: float) -> None:
    state = _checkpoint()
    state["temporal_vae.quant_conv.conv.bias"][2] = bad
    codec = _open(_folder(folder, state))

    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 tensors:\n  temporal_vae\.quant_conv\.conv\.bias"):
        codec.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_file_that_was_cut_short_is_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="cut short"):
        _open(folder)


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
        _open(tmp_path)

    assert not proof.exists()


def test_a_pickle_that_was_cut_short_or_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    whole, cut, other = tmp_path / "whole.pth", tmp_path / "cut.pth", tmp_path / "other.pth"
    torch.save(_checkpoint(), whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    torch.save([1, 2, 3], other)

    with pytest.raises(WeightsError, match="cut short"):
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
        _open(folder)


def test_weights_come_as_the_wanted_type_whatever_the_file_holds(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2, dtype=torch.float16), "bias": torch.ones(2)}, tmp_path / "a.safetensors")
    with torch.device("meta"):
        layer = nn.Linear(2, 2)

    load_strict(layer, read_state(tmp_path / "a.safetensors"), "a", torch.bfloat16)

    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert torch.equal(layer(torch.ones(1, 2, dtype=torch.bfloat16)), torch.full((1, 2), 3, dtype=torch.bfloat16))


# --- digests


def test_a_digest_is_remembered_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_damaged_memory_of_a_digest_is_not_believed(folder: Path) -> None:
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

    assert by_hub.card == _open(folder).card


def test_a_hub_that_cannot_be_asked_says_which_file_from_where_and_what_to_do(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        open_video_codec("opensora-v1.2", PAPER)

    message = str(caught.value)
    assert "model.safetensors of hpcai-tech/OpenSora-VAE-v1.2" in message
    assert "https://huggingface.co" in message
    assert 'weights = "FOLDER"' in message


@pytest.mark.parametrize("weights", ["no/such/folder", "./missing", "weights.safetensors", "../up/there"])
def test_what_is_neither_there_nor_a_hub_id_is_refused(cache: Path, weights: str) -> None:
    with pytest.raises(WeightsError, match="no such folder or file"):
        open_source("opensora-v1.2", weights, None)


def test_a_folder_without_the_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors and no pytorch_model\.bin"):
        _open(tmp_path)


def test_a_download_that_did_not_end_is_not_loaded(folder: Path, cache: Path) -> None:
    snapshot = put_in_cache(cache, HUB_ID, folder)
    (snapshot / "model.safetensors").rename(snapshot / "model.safetensors.incomplete")

    with pytest.raises(WeightsError, match=r"model\.safetensors of hpcai-tech"):
        open_video_codec("opensora-v1.2", PAPER)


# --- fetch and verify


def test_every_codec_with_weights_is_in_the_catalogue_and_the_other_way_round() -> None:
    codecs = {(kind, name) for kind, names in base._MODULES.items() for name in names if name not in ("dct", "bytes")}

    assert {
        (entry.kind, entry.name) for entry in catalogue().values() if entry.kind not in ("captioner", "model")
    } == codecs
    assert all(codec_module(kind, name) for kind, name in codecs)
    assert all(entry.files for entry in catalogue().values() if entry.kind == "model")


def test_audioldms_terms_are_non_commercial() -> None:
    terms = {name: entry.terms for name, entry in catalogue().items() if name.startswith("audioldm")}

    assert len(terms) == 4
    assert set(terms.values()) == {"CC-BY-NC-SA-4.0 (non-commercial)"}


def test_a_fetch_pins_the_commit_and_verify_finds_it_whole(folder: Path, cache: Path) -> None:
    put_in_cache(cache, HUB_ID, folder)

    record = fetch("opensora-v1.2")

    assert record.commit == COMMIT
    assert set(record.files) == {"model.safetensors", "config.json"}
    assert record.files["model.safetensors"].sha256 == weights_sha256(folder / "model.safetensors")
    assert read_records(cache) == {HUB_ID: record}
    assert [verdict.problem for verdict in verify("opensora-v1.2")] == [None, None]


def test_a_codec_keeps_to_the_fetched_commit_when_main_moves(folder: Path, cache: Path) -> None:
    put_in_cache(cache, HUB_ID, folder)
    fetch("opensora-v1.2")
    state = _checkpoint()
    state["scale"] += 1
    put_in_cache(cache, HUB_ID, _folder(folder.parent / "newer", state), commit="f" * 40)

    pinned = open_video_codec("opensora-v1.2", PAPER)
    newest = open_video_codec("opensora-v1.2", PAPER, revision="main")

    assert pinned.card.scale == (2.0,) * 4
    assert newest.card.scale == (3.0,) * 4


def test_a_copy_for_another_machine_opens_there_and_is_verified_there(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    put_in_cache(cache, HUB_ID, folder)
    copy = tmp_path / "copy"
    fetch("opensora-v1.2", copy_to=copy)

    assert (copy / RECORD_NAME).is_file()
    assert _open(copy).card == _open(folder).card
    assert [verdict.problem for verdict in verify("opensora-v1.2", folder=copy)] == [None, None]


def test_verify_finds_changed_added_and_broken_files(folder: Path, cache: Path, tmp_path: Path) -> None:
    put_in_cache(cache, HUB_ID, folder)
    copy = tmp_path / "copy"
    fetch("opensora-v1.2", copy_to=copy)
    (copy / "config.json").unlink()
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened

    problems = {verdict.file: verdict.problem for verdict in verify("opensora-v1.2", folder=copy)}

    assert "recorded with" in str(problems["model.safetensors"])
    assert "not there any more" in str(problems["config.json"])


def test_verify_of_a_folder_without_a_record_still_reads_every_number(folder: Path) -> None:
    state = _checkpoint()
    state["shift"][0] = float("nan")
    _folder(folder, state)

    problems = {verdict.file: verdict.problem for verdict in verify("opensora-v1.2", folder=folder)}

    assert "NaN" in str(problems["model.safetensors"])
    assert problems["config.json"] is None


def test_verify_before_any_fetch_names_the_command(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"uniform weights fetch opensora-v1\.2"):
        verify("opensora-v1.2")


def test_a_damaged_record_is_an_error_that_says_what_to_do(cache: Path) -> None:
    (cache / RECORD_NAME).write_text('{"a": 1}')
    with pytest.raises(WeightsError, match="Delete it and fetch again"):
        open_source("opensora-v1.2", None, None)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'opensora-v1\.2'"):
        published("opensora-1.2")
