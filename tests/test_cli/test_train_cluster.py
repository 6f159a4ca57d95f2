"""`uniform train --ray-workers`: the run of one process, in workers of Ray Train."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.tiny_run import losses, tiny_config, tiny_overrides
from uniform.errors import TrainingError
from uniform.training.saving.run_folder import LOCK_NAME, read_metrics_log
from uniform.training.trainer import train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_address")]
runner = CliRunner()


def train_in_two(root: Path, out: str, *changes: str) -> str:
    """What the command shows; it must end well."""
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(root, out, *changes), "--ray-workers", "2"])
    assert result.exit_code == 0, result.output
    return result.output


def chains(out: Path) -> list[str]:
    return [line["chain"] for line in read_metrics_log(out, "step")]


def assert_same_run(one: Path, other: Path) -> None:
    assert chains(one) == chains(other)
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)


def when_checkpointed(out: Path, act: Callable[[], None]) -> threading.Thread:
    """Call `act` in a thread as soon as the run in `out` has a checkpoint."""

    def wait() -> None:
        while not any((out / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_run_in_two_workers_is_the_run_of_one(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "one", "steps=8"))
    shown = train_in_two(tmp_path, "two", "steps=8")

    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert "8 steps, 2 x cpu" in shown
    assert "step 8/8" in shown
    assert f"checkpoint: {tmp_path / 'two' / 'checkpoints' / 'step-00000008'}" in shown


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_leaves_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    killer = when_checkpointed(out, lambda: os.kill(int((out / LOCK_NAME).read_text()), signal.SIGKILL))
    shown = train_in_two(tmp_path, "killed", "steps=200", "checkpoint.every=5", "log.every=50")
    killer.join()
    train(tiny_config(tmp_path, "one", "steps=200"))

    assert_same_run(tmp_path / "one", out)
    assert "resumes at step" in shown


def test_sigterm_lets_the_workers_save_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    when_checkpointed(out, lambda: os.kill(os.getpid(), signal.SIGTERM))
    shown = train_in_two(tmp_path, "stopped", "steps=100_000", "checkpoint.every=5")
    step = len(chains(out))

    assert f"stopped by signal after step {step}" in shown
    assert (out / "checkpoints" / f"step-{step:08d}").is_dir()
    train(tiny_config(tmp_path, "one", f"steps={step + 4}"))
    train(tiny_config(tmp_path, "stopped", f"steps={step + 4}"))
    assert_same_run(tmp_path / "one", out)


@pytest.mark.slow
def test_an_error_for_the_user_is_reported_once(tmp_path: Path) -> None:
    words = [*tiny_overrides(tmp_path, "run", "data.global_batch=3"), "--ray-workers", "2"]
    result = runner.invoke(app, ["train", "toy", *words])

    assert result.exit_code == 1
    assert result.output.count("error:") == 1
    assert "2 processes with 1 micro-batches each need a multiple of 2" in result.output


def die(stop: threading.Event) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_workers_that_always_die_end_the_run() -> None:
    from pipelines.cluster.train import train_on_ray

    with pytest.raises(TrainingError, match=r"died too often; the last time: rank 0: .*--ray-restarts"):
        train_on_ray(die, workers=1, restarts=1)


def test_a_cluster_that_is_too_small_is_refused(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run"), "--ray-workers", "64"])

    assert result.exit_code == 1
    assert "asks for 64 workers of 1 cores; Ray has 4 cores and 0 GPUs" in result.output


def test_an_address_goes_with_workers(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run"), "--ray-address", "auto"])

    assert result.exit_code == 1
    assert "--ray-address goes with --ray-workers" in result.output
