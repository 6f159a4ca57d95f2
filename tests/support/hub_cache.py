"""A hub's cache as huggingface_hub lays it out, filled from folders: what a fetch leaves behind, without a hub."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Make `cache` the hub's cache of this process, and keep it from asking any hub."""
    cache.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def use_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, url: str) -> None:
    """Make `url` the hub and `cache` its cache of this process."""
    use_cache(monkeypatch, cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def put_in_cache(cache: Path, hub_id: str, folder: Path, commit: str = COMMIT) -> Path:
    """Copy `folder` into `cache` as the snapshot of `hub_id` that "main" points to; gives the snapshot's folder."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(folder, snapshot, ignore=shutil.ignore_patterns(".*"))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return snapshot
