"""`uniform train`: train a network on latent shards, in this process or in many started by torchrun."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console

if TYPE_CHECKING:
    from uniform.latents.pieces import Fetching
    from uniform.training.config import TrainConfig
    from uniform.training.observer import Observer, Progress


def train(
    config: Annotated[str, typer.Argument(help="A preset (toy, paper, best, budget) or a TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For instance optimiser.learning_rate=2e-4")
    ] = None,
    shards: Annotated[
        list[str] | None,
        typer.Option("--shards", help="Folder of latent shards, or its URL (s3://, hf://, ...); may be repeated."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Only the clips of this split of --shards, usually train.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of this run.")] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", help="A key in which the run may differ from the checkpoint that it goes on from."),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option("--samples", help="File of prompts to sample after each checkpoint, by a process aside."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes, memory and time; train nothing.")] = False,
) -> None:
    """Train, or go on from the newest checkpoint. Stop it with Ctrl-C at will: it saves first."""
    import json

    from uniform.errors import ConfigError
    from uniform.training.presets import load_config

    words = list(overrides or ())
    if shards:
        only = f", split={json.dumps(split)}" if split else ""
        tables = ", ".join(f"{{folder={json.dumps(folder)}{only}}}" for folder in shards)
        words.append(f"data.sources=[{tables}]")
    elif split is not None:
        raise ConfigError("--split goes with --shards; in a configuration file it is a key of [[data.sources]]")
    if out is not None:
        words.append(f"out={json.dumps(str(out))}")
    wanted = load_config(config, words)
    if dry_run:
        _show_plan(config, wanted)
        return
    from uniform.training.trainer import train as run

    watchers: list[Observer] = [_Console()]
    if samples is not None:
        watchers.append(_Samples(samples, wanted.out))
    outcome = run(wanted, watchers, accept or ())
    if outcome.checkpoint.exists():
        console.out.print(f"checkpoint: {outcome.checkpoint}", markup=False)


def _show_plan(name: str, config: "TrainConfig") -> None:
    from uniform.training.plan import GUESSED_MFU, plan_run
    from uniform.training.presets import base_of, differences

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    plan = plan_run(config, processes)
    rows = {
        "parameters": f"{plan.parameters:,}",
        "tokens per clip": f"{plan.tokens_per_clip:,}",
        "arithmetic per clip": f"{plan.flops_per_clip / 1e12:,.3f} TFLOP (forward and backward)",
        "clips": f"{plan.clips:,}  " + ", ".join(f"{folder}: {clips:,}" for folder, clips in plan.folders.items()),
        "steps": f"{plan.steps:,} of {config.data.global_batch} clips; {plan.steps_per_epoch:,.1f} steps per epoch, "
        f"{plan.epochs:,.1f} epochs",
        "memory per device": f"{plan.state_bytes / 1e9:,.2f} GB for weights, gradients, moments and average, about "
        f"{plan.activation_bytes / 1e9:,.2f} GB for activations",
        "time": "unknown device"
        if plan.seconds is None
        else f"about {duration(plan.seconds)} on {processes} of this device, at {GUESSED_MFU:.0%} of its peak",
        "data": _fetching(plan.fetching),
        "begins at": f"step {plan.resumes_at}" + (" (newest checkpoint)" if plan.resumes_at else ""),
    }
    for key, value in rows.items():
        console.out.print(f"{key:<20} {value}", markup=False)
    changed = differences(name, config)
    console.out.print(f"{len(changed)} changes against {base_of(name)}", markup=False)
    for key, before, after in changed:
        console.out.print(f"  {key}: {before} -> {after}", markup=False)


def _fetching(needs: "Fetching | None") -> str:
    """What comes over the network, and where it goes."""
    if needs is None:
        return "local"
    missing = needs.wanted_bytes - needs.here_bytes
    how = (
        "whole shards, each once"
        if needs.whole
        else "the bytes of each clip; the cache is smaller than the data, so what it cannot keep comes again each epoch"
    )
    return (
        f"remote: {missing / 1e9:,.2f} GB to fetch of {needs.wanted_bytes / 1e9:,.2f} GB ({how}); "
        f"cache of {needs.cache_bytes / 1e9:,.2f} GB"
    )


class _Console:
    """One line per window of steps, on standard error."""

    def started(self, facts: Mapping[str, Any]) -> None:
        begin = "begins" if facts["step"] == 0 else f"goes on at step {facts['step']:,}"
        console.err.print(
            f"{begin}: {facts['parameters']:,} parameters, {facts['clips']:,} clips, {facts['steps']:,} steps, "
            f"{facts['processes']} x {facts['device']}, {facts['out']}",
            markup=False,
        )

    def progressed(self, progress: "Progress") -> None:
        parts = [
            f"step {progress.step:,}/{progress.steps:,}",
            f"loss {progress.loss:.4f}",
            *(f"{name} {value:.4f}" for name, value in progress.losses.items() if name.endswith("_mse")),
            f"grad {progress.grad_norm:.2f}",
            f"lr {progress.learning_rate:.1e}",
            f"{progress.clips_per_s:,.1f} clips/s",
            f"{progress.tokens_per_s:,.0f} tokens/s",
            f"data wait {progress.data_wait:.1%}",
            f"{progress.memory_bytes / 1e9:.1f} GB",
            f"left {duration(progress.seconds_left)}",
        ]
        parts += [f"MFU {progress.mfu:.0%}"] if progress.mfu is not None else []
        parts += [f"skipped {progress.skipped}"] if progress.skipped else []
        parts += [f"damaged clips {progress.corrupt}"] if progress.corrupt else []
        console.err.print("  ".join(parts), markup=False)

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        console.err.print(f"validation after step {step:,}: {text}", markup=False)

    def saved(self, path: Path) -> None:
        console.err.print(f"saved {path}", markup=False)

    def ended(self, step: int, why: str) -> None:
        console.err.print(f"{why} after step {step:,}", markup=False)


class _Samples:
    """After a checkpoint, `uniform sample` in a process aside: the trainer knows no codec, and waits for nobody.

    While one is at work, checkpoints pass without samples. All go to <run>/samples, whose gallery page grows.
    """

    def __init__(self, prompts: Path, out: Path) -> None:
        from uniform.errors import InputError

        if not prompts.is_file():
            raise InputError(f"{prompts}: no such file of prompts; one prompt a line, see uniform sample --help")
        self._prompts, self._out = prompts, out / "samples"
        self._child: subprocess.Popen[bytes] | None = None

    def started(self, facts: Mapping[str, Any]) -> None:
        self._out.mkdir(parents=True, exist_ok=True)

    def progressed(self, progress: "Progress") -> None:
        pass

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def saved(self, path: Path) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        command = [sys.executable, "-m", "cli.main", "sample", "--checkpoint", str(path)]
        command += ["--prompts", str(self._prompts), "--name", path.name, "--out", str(self._out)]
        alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        with (self._out / "sample.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=alone)

    def ended(self, step: int, why: str) -> None:
        if self._child is not None and self._child.wait() != 0:
            console.err.print(f"the last samples failed: {self._out / 'sample.log'}", markup=False)


def duration(seconds: float) -> str:
    """`5 s`, `3 min 20 s`, `7 h 05 min`, `4 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
