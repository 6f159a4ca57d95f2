"""Fetching over HTTP from a hub on this machine, through huggingface_hub as it is."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.support.hub_cache import COMMIT, use_hub
from tests.support.hub_server import serving
from uniform.codecs.fetch import fetch, verify
from uniform.codecs.hub import Source, open_source
from uniform.errors import WeightsError

NAME = "opensora-stdit-v3"
HUB_ID = "hpcai-tech/OpenSora-STDiT-v3"
CHUNK_BYTES = constants.DOWNLOAD_CHUNK_SIZE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository whose weights take several of huggingface_hub's reads."""
    folder = tmp_path / "repository"
    folder.mkdir()
    save_file({"weight": torch.arange(3 * CHUNK_BYTES // 4, dtype=torch.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_dropped_download_resumes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({HUB_ID: folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        hub.drop_after_bytes = CHUNK_BYTES * 3 // 2
        record = fetch(NAME)

    assert hub.ranges == [f"bytes={CHUNK_BYTES}-"]
    assert record.commit == COMMIT
    assert [verdict.problem for verdict in verify(NAME)] == [None, None]
    fetched = open_source(NAME, None, None, cache_only=True).file("model.safetensors")
    assert torch.equal(load_file(fetched)["weight"], load_file(folder / "model.safetensors")["weight"])


def test_a_second_fetch_downloads_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({HUB_ID: folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        first = fetch(NAME)
        downloads = hub.downloads
        second = fetch(NAME)

    assert first == second
    assert hub.downloads == downloads == 2


def test_broken_weights_are_found_at_fetch_and_not_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with serving({HUB_ID: folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        with pytest.raises(WeightsError, match="truncated"):
            fetch(NAME)

    with pytest.raises(WeightsError, match="not fetched on this machine"):
        verify(NAME)


def test_a_repository_or_file_that_the_hub_does_not_have_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").unlink()
    with serving({HUB_ID: folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
            fetch(NAME)
        with pytest.raises(WeightsError, match=f"cannot be fetched from {hub.url}"):
            open_source(NAME, "no/body", None).file("model.safetensors")


def test_a_file_that_the_hub_does_not_have_is_cached_as_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({HUB_ID: folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        online = Source(model=NAME, hub_id=HUB_ID)
        online.file("config.json")
        assert online.find("optional.json") is None

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = open_source(NAME, None, None)

    assert offline.find("optional.json") is None
    with pytest.raises(WeightsError, match="the hub is not used"):
        offline.find("never_asked_for.json")


@pytest.mark.slow
def test_an_unreachable_hub_is_an_error_after_the_retries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, tmp_path, "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as caught:
        fetch(NAME)

    for part in (HUB_ID, "config.json", "http://127.0.0.1:9", "FOLDER"):
        assert part in str(caught.value)
