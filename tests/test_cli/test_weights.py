"""The commands of `uniform weights`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli.main import app
from tests.support.hub_cache import COMMIT, put_in_cache, use_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds stand-ins for the audio codec's files."""
    cache, folder = tmp_path / "hub", tmp_path / "audioldm"
    for name in ("vae/diffusion_pytorch_model.safetensors", "vocoder/model.safetensors"):
        path = folder / name
        path.parent.mkdir(parents=True)
        save_file({"weight": torch.ones(3)}, path)
        (path.parent / "config.json").write_text("{}")
    use_cache(monkeypatch, cache)
    put_in_cache(cache, "cvssp/audioldm-s-full-v2", folder)
    return cache


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["weights", *arguments], env={"COLUMNS": "250"})
    return result.exit_code, result.output


def test_list_shows_sizes_and_licences(cache: Path) -> None:
    code, text = _run("list")

    assert code == 0
    line = next(line for line in text.splitlines() if "audioldm-s-full-v2" in line)
    assert "about 0.44 GB" in line
    assert "CC-BY-NC-SA-4.0 (non-commercial)" in line
    assert "1.57 GB" in text


def test_fetch_prints_the_licence_and_list_then_shows_the_commit(cache: Path) -> None:
    code, text = _run("fetch", "audioldm-s-full-v2")

    assert code == 0
    assert "not for commercial use" in text
    assert COMMIT in text
    assert COMMIT[:12] in _run("list")[1]


def test_verify_passes_intact_files_and_fails_changed_ones(cache: Path) -> None:
    _run("fetch", "audioldm-s-full-v2")

    assert _run("verify", "audioldm-s-full-v2")[0] == 0
    path = next(cache.glob("models--*/snapshots/*/vocoder/model.safetensors"))
    save_file({"weight": torch.zeros(3)}, path)
    code, text = _run("verify", "audioldm-s-full-v2")

    assert code == 1
    assert "fetch again" in text


def test_an_unreachable_hub_exits_with_1_and_advice(cache: Path) -> None:
    code, text = _run("fetch", "t5-v1_1-base")

    assert code == 1
    assert "config.json of google/t5-v1_1-base" in text
    assert "FOLDER" in text
