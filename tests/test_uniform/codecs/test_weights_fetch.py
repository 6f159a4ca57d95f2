"""Weights of the catalogue: fetched at a pinned commit, recorded, and verified."""

import os
from pathlib import Path

import pytest

from tests.support.hub_cache import COMMIT, put_in_cache, use_cache
from tests.support.small_vae import HUB_ID, open_codec, small_checkpoint, weights_folder
from uniform.codecs import base
from uniform.codecs.base import codec_module, open_video_codec
from uniform.codecs.catalogue import catalogue, published
from uniform.codecs.fetch import fetch, verify
from uniform.codecs.hub import open_source
from uniform.codecs.record import RECORD_NAME, read_records
from uniform.codecs.weights import weights_sha256
from uniform.errors import ConfigError, WeightsError
from uniform.spec import PAPER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return weights_folder(tmp_path / "vae", small_checkpoint())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in a process that may not go online."""
    use_cache(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


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


def test_a_fetch_pins_the_commit_and_verify_passes(folder: Path, cache: Path) -> None:
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
    state = small_checkpoint()
    state["scale"] += 1
    put_in_cache(cache, HUB_ID, weights_folder(folder.parent / "newer", state), commit="f" * 40)

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
    assert open_codec(copy).card == open_codec(folder).card
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
    assert "in the record, but missing" in str(problems["config.json"])


def test_verify_of_a_folder_without_a_record_still_reads_every_number(folder: Path) -> None:
    state = small_checkpoint()
    state["shift"][0] = float("nan")
    weights_folder(folder, state)

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
