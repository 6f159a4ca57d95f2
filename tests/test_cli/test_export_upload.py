"""`uniform export --upload`: huggingface_hub's own client against a hub on this machine.

Its Xet transfer speaks to a storage service of its own and is switched off here: large files go by LFS.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

from cli.main import app
from tests.support.hub_cache import use_hub
from tests.support.hub_upload_server import COMMIT, READER, TOKEN, UploadHub, taking_uploads
from tests.support.tiny_run import tiny_config
from uniform.model.checkpoint import load_model
from uniform.training.trainer import train

runner = CliRunner()
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    train(tiny_config(root, "run", "steps=2"))
    return root / "run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with taking_uploads() as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_login"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def export(run: Path, out: Path, *words: str) -> Any:
    return runner.invoke(app, ["export", str(run), str(out), "--upload", "me/rain", "--license", "cc-by-4.0", *words])


def test_the_file_and_its_card_go_into_a_private_repository(run: Path, tmp_path: Path, hub: UploadHub) -> None:
    result = export(run, tmp_path / "rain.safetensors")
    assert result.exit_code == 0, result.output
    (files,) = hub.commits
    card = ModelCard(files["README.md"].decode())
    _, metadata = load_model(tmp_path / "rain.safetensors")

    assert hub.private == {"me/rain": True}
    assert f"uploaded: {hub.url}/me/rain/commit/{COMMIT}" in result.output
    assert files.keys() == {"README.md", "rain.safetensors"}
    assert files["rain.safetensors"] == (tmp_path / "rain.safetensors").read_bytes()
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "uniform-toolkit")
    for key, value in metadata.identity.items():
        assert f"| {key} | {value} |" in card.text
    assert f"| text codec of labels | bytes {metadata.codecs['texts']['labels']['codec']['fingerprint']} |" in card.text
    assert TOKEN not in result.output


def test_the_diffusers_shape_goes_as_its_files_and_public_on_request(run: Path, tmp_path: Path, hub: UploadHub) -> None:
    result = export(run, tmp_path / "rain", "--diffusers", "--public")

    assert result.exit_code == 0, result.output
    assert hub.private == {"me/rain": False}
    assert hub.commits[0].keys() == {"README.md", "config.json", "diffusion_pytorch_model.safetensors"}


def test_a_dry_run_shows_all_and_sends_nothing(run: Path, tmp_path: Path, hub: UploadHub) -> None:
    result = export(run, tmp_path / "rain.safetensors", "--dry-run")

    assert result.exit_code == 0, result.output
    for text in ("me/rain (private", "rain.safetensors", "license: cc-by-4.0", "| optimiser steps | 2 |"):
        assert text in result.output
    assert (tmp_path / "rain.safetensors").is_file()
    assert hub.requests == []


def test_a_public_repository_is_not_taken_for_a_private_one(run: Path, tmp_path: Path, hub: UploadHub) -> None:
    hub.private["me/rain"] = False
    refused = export(run, tmp_path / "rain.safetensors")

    assert refused.exit_code == 1
    assert "me/rain is public already, and --public was not given" in refused.output
    assert hub.commits == []


def test_a_second_export_is_a_second_commit(run: Path, tmp_path: Path, hub: UploadHub) -> None:
    for _ in range(2):
        assert export(run, tmp_path / "rain.safetensors").exit_code == 0
    assert len(hub.commits) == 2


def test_a_token_without_rights_ends_with_a_message(
    run: Path, tmp_path: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    result = export(run, tmp_path / "rain.safetensors")

    assert result.exit_code == 1
    assert f"me/rain: {hub.url} refused it" in result.output
    assert READER not in result.output


def test_without_a_login_nothing_is_asked(
    run: Path, tmp_path: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = export(run, tmp_path / "rain.safetensors")

    assert result.exit_code == 1
    assert "--upload needs a login: hf auth login" in result.output
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--upload", "me/rain"], "--upload needs --license"),
        (["--public"], "--license, --public and --dry-run go with --upload"),
        (["--upload", "rain", "--license", "mit"], "must have the form owner/name"),
        (["--upload", "me/rain", "--license", "do what\nyou want: now"], "give one of the hub"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    run: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = runner.invoke(app, ["export", str(run), str(tmp_path / "rain.safetensors"), *words])

    assert result.exit_code == 1
    assert message in result.output
