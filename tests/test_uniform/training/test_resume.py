"""Stopped and resumed runs: bit for bit the undisturbed one, whatever stopped them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import ROOT
from tests.support.tiny_run import losses, tiny_config, tiny_overrides
from uniform import checkpoint_format
from uniform.checkpoint_format import (
    Snapshot,
    find_checkpoints,
    prune,
    read_metadata,
    read_tensors,
    write_checkpoint,
)
from uniform.errors import CheckpointError, TrainingError
from uniform.training.saving import saver
from uniform.training.saving.run_folder import MetricsLog, read_metrics_log
from uniform.training.settings.config import CheckpointConfig
from uniform.training.trainer import train


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def same_files(one: Path, two: Path) -> bool:
    """Whether two checkpoints hold the same weights, averages and moments, bit for bit."""
    for name in ("model", "ema", "optimiser"):
        a, b = load_file(one / f"{name}.safetensors"), load_file(two / f"{name}.safetensors")
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return True


def test_a_run_in_three_parts_is_the_run_in_one(tmp_path: Path) -> None:
    whole = train(tiny_config(tmp_path, "whole", "steps=9"))
    for steps in (2, 5, 9):
        parts = train(tiny_config(tmp_path, "parts", f"steps={steps}"))

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert parts.chain == whole.chain
    assert same_files(whole.checkpoint, parts.checkpoint)


def start(root: Path, out: str, *changes: str) -> subprocess.Popen[bytes]:
    """A trainer in a process of its own."""
    command = [sys.executable, "-m", "cli.main", "train", "toy", *tiny_overrides(root, out, *changes)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_steps(out: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the run has written down so many steps."""
    begin = time.monotonic()
    while len(read_metrics_log(out, "step")) < steps:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() - begin < 120, "the run did not get going"
        time.sleep(0.02)


def test_a_killed_run_resumes_from_its_last_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    changes = ("steps=30", "checkpoint.every=4", "log.every=1")
    whole = train(tiny_config(tmp_path, "whole", *changes))
    process = start(tmp_path, "killed", *changes)
    wait_for_steps(tmp_path / "killed", 9, process)  # the save after step 8 has waited for the one after step 4
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    assert find_checkpoints(tmp_path / "killed" / "checkpoints")
    resumed = train(tiny_config(tmp_path, "killed", *changes))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert same_files(whole.checkpoint, resumed.checkpoint)


def test_a_run_stopped_by_sigterm_saves_its_last_step_and_exits_with_0(tmp_path: Path) -> None:
    process = start(tmp_path, "asked", "steps=100000", "log.every=1")
    wait_for_steps(tmp_path / "asked", 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors.decode()
    assert b"stopped by signal" in errors
    last = read_metrics_log(tmp_path / "asked", "step")[-1]["step"]
    assert read_metadata(find_checkpoints(tmp_path / "asked" / "checkpoints")[-1])["step"] == last
    assert (tmp_path / "asked" / "curve.png").exists()


def snapshot(step: int) -> Snapshot:
    tensors = {"weight": torch.full((4, 4), float(step))}
    return Snapshot(metadata={"step": step}, tensors={"model": tensors, "ema": tensors, "optimiser": {}})


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, snapshot(step))
    (tmp_path / "step-00000003" / "ema.safetensors").write_bytes(b"cut")
    (tmp_path / "step-00000002" / "checkpoint.json").unlink()
    (tmp_path / ".tmp-123-step-00000009").mkdir()

    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000001"]


def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, snapshot(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_format, "save_file", full)
    with pytest.raises(TrainingError, match=r"step-00000002: .*No space left on device.*free some disk space"):
        write_checkpoint(tmp_path, snapshot(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_full_disk_ends_a_run_that_writes_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_format, "save_file", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        train(tiny_config(tmp_path, "run", "steps=6", "checkpoint.every=2"))


def test_a_checkpoint_is_announced_as_soon_as_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(folder: Path, kept: Snapshot) -> Path:
        assert go_on.wait(30)
        return write_checkpoint(folder, kept)

    monkeypatch.setattr(saver, "write_checkpoint", slow)
    at_work = saver.Saver(tmp_path, CheckpointConfig())
    assert at_work.save(snapshot(1)) == []
    assert at_work.finished() == []
    go_on.set()
    while not (found := at_work.finished()):
        time.sleep(0.01)
    assert found == [tmp_path / "step-00000001"]
    assert at_work.finished() == at_work.wait() == []
    at_work.close()


def test_old_checkpoints_are_removed_except_those_to_keep(tmp_path: Path) -> None:
    for step in range(1, 8):
        write_checkpoint(tmp_path, snapshot(step))
    (tmp_path / ".tmp-dead-step-00000008").mkdir()
    prune(tmp_path, keep_last=2, keep_every=3, keep=2)

    assert [int(path.name[5:]) for path in sorted(tmp_path.iterdir())] == [2, 3, 6, 7]


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, snapshot(5))
    content = bytearray((path / "model.safetensors").read_bytes())
    content[:8] = b"\xff" * 8
    (path / "model.safetensors").write_bytes(bytes(content))

    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read .* Move the folder step-00000005"):
        read_tensors(path, "model")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        read_metadata(tmp_path)


def test_the_metrics_log_drops_steps_after_the_checkpoint(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        metrics_log.write({"kind": "step", "step": step, "loss": float(step)})
    metrics_log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    MetricsLog(tmp_path, 3).close()

    assert [line["step"] for line in read_metrics_log(tmp_path)] == [1, 2, 3]


def test_a_full_disk_under_the_metrics_log_ends_with_a_message(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path, 0)
    metrics_log._file = Path("/dev/full").open("w")  # noqa: SIM115 - closed by the log
    metrics_log.write({"kind": "step", "step": 1, "loss": float("inf")})

    with pytest.raises(TrainingError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        metrics_log.flush()


def test_a_run_without_its_checkpoints_starts_from_step_0(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=2"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(tiny_config(tmp_path, "run", "steps=3"))

    assert len(losses(tmp_path / "run")) == 3
