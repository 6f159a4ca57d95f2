"""A run that is killed again and again, on changing numbers of processes, against the undisturbed one.

    python benchmarks/restart.py [--steps 200] [--kills 20] [--seed 0]

Each life of the run gets 1, 2 or 4 gloo processes on this machine, another accumulation and residency, and is killed
with SIGKILL at a random moment: between steps, within one, while a checkpoint is written. Printed: whether the hash
chain of all batch ids is that of the undisturbed run in one process, and the largest difference of the loss.
"""

import argparse
import contextlib
import multiprocessing
import os
import platform
import random
import socket
import tempfile
import time
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support.tiny_run import tiny_config
from uniform.checkpoint_format import find_checkpoints
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.trainer import train

WAYS = ((1, 1, "disk"), (1, 4, "ram"), (2, 1, "disk"), (2, 2, "ram"), (4, 1, "disk"))
"""Processes, accumulation, residency."""


def life(rank: int, processes: int, port: int, root: Path, words: tuple[str, ...]) -> None:
    """One process of one life."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (root / "lives.log").open("a") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        train(tiny_config(root, "killed", *words))


def begin_life(context: Any, way: tuple[int, int, str], root: Path, words: tuple[str, ...]) -> list[BaseProcess]:
    """Start all processes of a life."""
    processes, accumulate, residency = way
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = (*words, f"optimiser.accumulate={accumulate}", f"data.residency={residency}")
    children = [context.Process(target=life, args=(rank, processes, port, root, changes)) for rank in range(processes)]
    for child in children:
        child.start()
    return children


def steps_done(root: Path) -> int:
    """Steps that the journal of the killed run holds."""
    lines = read_metrics_log(root / "killed", "step")
    return int(lines[-1]["step"]) if lines else 0


def main() -> None:
    """Run, kill, compare; exit with 1 where the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_run", "uniform.training.trainer"])
    words = (f"steps={options.steps}", "checkpoint.every=3", "log.every=1")
    kills: list[str] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        whole = train(tiny_config(root, "whole", *words))
        gap = options.steps / (options.kills + 1)
        while len(kills) < options.kills:
            way, before = chance.choice(WAYS), steps_done(root)
            target = min(int((len(kills) + chance.uniform(0.5, 1.2)) * gap), options.steps - 1)
            children = begin_life(context, way, root, words)
            while steps_done(root) < target and all(child.is_alive() for child in children):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            dead = [child.exitcode for child in children if child.exitcode not in (None, 0)]
            for child in children:
                child.kill()
            for child in children:
                child.join()
            assert not dead, f"a process ended by itself with {dead}"
            kills.append(f"{way[0]} processes, {before} -> {steps_done(root)}")
        for child in begin_life(context, (2, 1, "disk"), root, words):
            child.join()
        one, other = (read_metrics_log(root / name, "step") for name in ("whole", "killed"))
        same = [line["chain"] for line in one] == [line["chain"] for line in other]
        worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, other, strict=True))
        left = [path.name for path in find_checkpoints(root / "killed" / "checkpoints")]
    print(f"{date.today()}, {platform.machine()}, {time.monotonic() - begin:.0f} s")
    print(f"  {len(kills)} kills: " + "; ".join(kills))
    print(f"  hash chain after {options.steps} steps: {one[-1]['chain']} and {other[-1]['chain']}: same: {same}")
    print(f"  largest difference of a step's loss: {worst:.2e} of about {whole.loss:.2f}; checkpoints left: {left}")
    if not same or worst > 1e-4:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
