"""One run on any number of processes: the same batches, the same losses, resumed on any other number."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.many_processes import run_in_processes
from tests.support.paths import ROOT
from tests.support.tiny_run import losses, tiny_config, tiny_overrides
from uniform.training.parallel.processes import join_processes
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.settings.config import ComputeConfig
from uniform.training.trainer import train


def train_here(root: Path, out: str, *changes: str) -> None:
    torch.set_num_threads(1)
    train(tiny_config(root, out, *changes))


def chains(out: Path) -> list[str]:
    return [line["chain"] for line in read_metrics_log(out, "step")]


def assert_same_run(root: Path, one: str, other: str) -> None:
    assert chains(root / one) == chains(root / other)
    assert losses(root / one) == pytest.approx(losses(root / other), rel=1e-5)
    a, b = (load_file(sorted((root / name / "checkpoints").iterdir())[-1] / "ema.safetensors") for name in (one, other))
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)


def test_a_run_that_changes_its_processes_is_the_run_of_one(tmp_path: Path) -> None:
    train_here(tmp_path, "one", "steps=9")

    train_here(tmp_path, "many", "steps=3", "optimiser.accumulate=2")
    run_in_processes(4, train_here, tmp_path, "many", "steps=6")
    run_in_processes(2, train_here, tmp_path, "many", "steps=9", "optimiser.accumulate=2", "data.residency=ram")
    assert_same_run(tmp_path, "one", "many")


def gather_and_compare() -> None:
    with join_processes(ComputeConfig(device="cpu")) as processes:
        found = processes.gather([processes.rank, "ä" * (1 + processes.rank), float("nan")])
        assert [part[:2] for part in found] == [[0, "ä"], [1, "ää"]]
        assert math.isnan(found[1][2])
        assert processes.any(processes.rank == 1)
        assert not processes.any(False)
        assert float(processes.sum(torch.tensor(processes.rank + 1.0))) == 3


def test_processes_gather_objects_and_flags_from_each_other() -> None:
    run_in_processes(2, gather_and_compare)


def test_a_sharded_run_is_the_run_of_one(tmp_path: Path) -> None:
    adamw = "optimiser.kind=adamw"
    train_here(tmp_path, "one", "steps=6", adamw)

    run_in_processes(2, train_here, tmp_path, "sharded", "steps=4", adamw, "compute.parallel=fsdp")
    train_here(tmp_path, "sharded", "steps=6", adamw)
    assert_same_run(tmp_path, "one", "sharded")


@pytest.mark.slow
def test_random_kills_and_changing_processes_leave_no_trace() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "restart.py"), "--steps", "60", "--kills", "6"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=900, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"same: True" in done.stdout


@pytest.mark.slow
def test_torchrun_starts_many_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "cli.main", "train", "toy", *tiny_overrides(tmp_path, "many", "steps=4")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr.decode()
    train_here(tmp_path, "one", "steps=4")
    assert_same_run(tmp_path, "one", "many")
