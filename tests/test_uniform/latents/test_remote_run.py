"""A run on remote shards is the run on local ones: the same chain of clip ids, whatever the size of the cache."""

from pathlib import Path

import pytest
import torch

from tests.support.many_processes import run_in_processes
from tests.support.tiny_run import losses, tiny_config
from uniform.latents.fetching.cache import Cache
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.trainer import train

STEPS = 14
"""Three epochs of the 18 clips, in batches of 4."""
TIGHT = 240_000
"""Bytes: a cache below the 266,240 of the shards, so that clips are fetched and removed one by one."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train_remotely(root: Path, out: str, *changes: str) -> None:
    torch.set_num_threads(1)
    sources = f'data.sources=[{{folder="file://{root / "shards"}"}}]'
    train(tiny_config(root, out, sources, f"data.cache_folder={root / 'cache'}", *changes))


def chain(out: Path) -> list[str]:
    return [line["chain"] for line in read_metrics_log(out, "step")]


def assert_same_run(root: Path, out: str) -> None:
    assert len(chain(root / "local")) == STEPS
    assert chain(root / out) == chain(root / "local")
    assert losses(root / out) == pytest.approx(losses(root / "local"), rel=1e-5)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    train(tiny_config(tmp_path, "local", f"steps={STEPS}"))
    return tmp_path


@pytest.mark.parametrize("cache_bytes", [1 << 30, TIGHT])
def test_a_remote_run_is_the_local_run(local: Path, cache_bytes: int) -> None:
    train_remotely(local, "remote", f"steps={STEPS}", f"data.cache_bytes={cache_bytes}")

    assert_same_run(local, "remote")
    files = Cache(local / "cache", 0).scan()
    assert 0 < sum(size for _, size in files) <= cache_bytes
    assert {path.parent.suffix for path, _ in files} == {".pieces" if cache_bytes == TIGHT else ""}


def test_a_run_may_go_on_with_its_shards_elsewhere(local: Path) -> None:
    train(tiny_config(local, "moved", "steps=5"))
    train_remotely(local, "moved", "steps=9", f"data.cache_bytes={TIGHT}")
    train_remotely(local, "moved", f"steps={STEPS}", "data.residency=ram")

    assert_same_run(local, "moved")


def test_two_processes_share_a_cache_that_is_smaller_than_the_data(local: Path) -> None:
    run_in_processes(2, train_remotely, local, "two", f"steps={STEPS}", f"data.cache_bytes={TIGHT}")

    assert_same_run(local, "two")
    assert sum(size for _, size in Cache(local / "cache", 0).scan()) <= TIGHT
