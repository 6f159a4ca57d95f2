"""A run that is killed at any point and started again gives the same bytes as an uninterrupted run."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.drive_run import CLIPS, made
from tests.support.fake_stages import fake_run, results
from tests.support.paths import ROOT, TESTS

Fork = Callable[[Path, float | None], dict[str, Any]]


def environment() -> dict[str, str]:
    """This process's own, now: it holds the token of the Ray instance that was started here."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("peace") / "run"
    run_pipeline(fake_run(out, CLIPS, made()), InlineBackend(), LogListener())
    found = results(out)
    assert {"index.parquet", "card.json", "latents-000004.tar", "text-labels-000000.tar"} <= set(found)
    return found


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    command = [sys.executable, str(TESTS / "support" / "drive_run.py"), "fork"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
    ) as parent:

        def ask(out: Path, kill_after_s: float | None) -> dict[str, Any]:
            assert parent.stdin is not None
            assert parent.stdout is not None
            parent.stdin.write(json.dumps({"out": str(out), "kill_after_s": kill_after_s}) + "\n")
            parent.stdin.flush()
            answer: dict[str, Any] = json.loads(parent.stdout.readline())
            return answer

        yield ask
        assert parent.stdin is not None
        parent.stdin.close()


def nothing_left(out: Path) -> bool:
    return not list(out.rglob(".tmp-*"))


@pytest.fixture(scope="module")
def cpu_s(fork: Fork, tmp_path_factory: pytest.TempPathFactory) -> float:
    """CPU time of an undisturbed run."""
    seconds: float = fork(tmp_path_factory.mktemp("timed") / "run", None)["cpu_s"]
    return seconds


@pytest.mark.parametrize("seed", range(4))
def test_inline_run_killed_three_times_ends_with_the_same_bytes(
    seed: int, fork: Fork, cpu_s: float, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out, chance, kills, tries = tmp_path / "run", random.Random(seed), 0, 0
    while kills < 3:
        kills += os.WIFSIGNALED(fork(out, chance.uniform(0.001, 0.7 * cpu_s))["status"])
        if (out / "card.json").exists():  # it got to its end: begin again
            assert results(out) == undisturbed
            shutil.rmtree(out)
        tries += 1
        assert tries < 30

    assert fork(out, None)["status"] == 0
    assert results(out) == undisturbed
    assert nothing_left(out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 220))
def test_inline_run_killed_once_anywhere_ends_with_the_same_bytes(
    seed: int, fork: Fork, cpu_s: float, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    fork(tmp_path / "run", random.Random(seed).uniform(0.001, cpu_s))

    assert fork(tmp_path / "run", None)["status"] == 0
    assert results(tmp_path / "run") == undisturbed
    assert nothing_left(tmp_path / "run")


def start_on_ray(out: Path, workers: int, address: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(TESTS / "support" / "drive_run.py"), "ray", str(out), str(workers), address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)


def commits(out: Path) -> int:
    return len(list((out / "commits").rglob("[0-9]*.json")))  # not one that is being written


@pytest.mark.ray
@pytest.mark.parametrize(("workers", "moment"), [(1, 12), (2, 1), (3, 7)])
def test_ray_run_whose_driver_and_workers_are_killed_ends_with_the_same_bytes(
    workers: int, moment: int, undisturbed: dict[str, bytes], tmp_path: Path, ray_address: str
) -> None:
    """The driver dies at some moment after a number of commits; later three workers die on the last stage."""
    from pipelines.cluster.backend import RayBackend

    out, killed, chance = tmp_path / "run", tmp_path / "killed", random.Random(workers)
    with start_on_ray(out, workers, ray_address) as driver:
        deadline = time.monotonic() + 100
        while commits(out) < moment:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        driver.send_signal(signal.SIGKILL)
    assert not (out / "card.json").exists()

    killed.mkdir()
    index = pq.read_table(io.BytesIO(undisturbed["index.parquet"]), columns=["clip_id", "unit"]).to_pylist()
    left = [row["clip_id"] for row in index if not (out / "commits" / "cut" / f"{row['unit']:06d}.json").exists()]
    victims = tuple(chance.sample(left, 3))  # of units that no worker had begun
    with RayBackend(workers=workers) as engine:
        run_pipeline(fake_run(out, CLIPS, made(kills=victims, killed=str(killed))), engine, LogListener())

    assert sorted(path.name for path in killed.iterdir()) == sorted(victims)
    assert results(out) == undisturbed
    assert nothing_left(out)
