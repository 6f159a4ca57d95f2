"""`uniform train`: train a network on latent shards, in this process or in many started by torchrun or Ray Train."""

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console

if TYPE_CHECKING:
    from uniform.latents.fetching.byte_ranges import Fetching
    from uniform.training.reporting.observer import Observer, Progress
    from uniform.training.settings.config import TrainConfig
    from uniform.training.trainer import Outcome


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
        typer.Option("--samples", help="File of prompts to sample after checkpoints, by a process aside."),
    ] = None,
    samples_every: Annotated[
        int | None, typer.Option(min=1, help="With --samples: steps between two of them. Default: each checkpoint.")
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option("--ray-workers", min=1, help="Train in this many processes of a Ray cluster.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="Cluster for --ray-workers; without it Ray starts here.")
    ] = None,
    ray_restarts: Annotated[
        int, typer.Option("--ray-restarts", min=0, help="Times that --ray-workers begin again after one died.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes, memory and time; train nothing.")] = False,
) -> None:
    """Train, or go on from the newest checkpoint. Stop it with Ctrl-C at will: it saves first."""
    from uniform.errors import ConfigError
    from uniform.training.settings.presets import load_config

    words = [*(overrides or ()), *_as_overrides(shards, split, out)]
    if ray_address is not None and ray_workers is None:
        raise ConfigError("--ray-address goes with --ray-workers")
    if samples_every is not None and samples is None:
        raise ConfigError("--samples-every goes with --samples, a file of prompts")
    wanted = load_config(config, words)
    if dry_run:
        _show_plan(config, wanted, ray_workers or int(os.environ.get("WORLD_SIZE", "1")), accept or ())
        return
    work = functools.partial(_run, wanted, samples, samples_every, accept or ())
    outcome = work(None) if ray_workers is None else _on_ray(work, wanted, ray_workers, ray_address, ray_restarts)
    if outcome.checkpoint.exists():
        console.out.print(f"checkpoint: {outcome.checkpoint}", markup=False)


def _as_overrides(shards: list[str] | None, split: str | None, out: Path | None) -> list[str]:
    """The options that stand for keys of the configuration."""
    import json

    from uniform.errors import ConfigError

    words = []
    if shards:
        only = f", split={json.dumps(split)}" if split else ""
        tables = ", ".join(f"{{folder={json.dumps(folder)}{only}}}" for folder in shards)
        words.append(f"data.sources=[{tables}]")
    elif split is not None:
        raise ConfigError("--split goes with --shards; in a configuration file it is a key of [[data.sources]]")
    return [*words, f"out={json.dumps(str(out))}"] if out is not None else words


def _on_ray(
    work: Callable[[threading.Event], "Outcome"],
    config: "TrainConfig",
    workers: int,
    address: str | None,
    restarts: int,
) -> "Outcome":
    from pipelines.cluster.train import train_on_ray

    cores, gpus = config.compute.threads or 1, {"cpu": False, "cuda": True}.get(config.compute.device)
    return train_on_ray(work, workers=workers, cores=cores, gpus=gpus, address=address, restarts=restarts)


def _run(
    config: "TrainConfig",
    samples: Path | None,
    samples_every: int | None,
    accepted: Sequence[str],
    stop: threading.Event | None,
) -> "Outcome":
    """The run, in this process or in a worker of a cluster."""
    from uniform.training.background_sampling import BackgroundSampling
    from uniform.training.trainer import train as run

    watchers: list[Observer] = [_Console()]
    if samples is not None:
        watchers.append(BackgroundSampling(samples, config.out, samples_every or config.checkpoint.every))
    return run(config, watchers, accepted, stop)


def _show_plan(name: str, config: "TrainConfig", processes: int, accepted: Sequence[str]) -> None:
    from uniform.training.plan import GUESSED_MFU, plan_run
    from uniform.training.settings.presets import base_of, differences

    plan = plan_run(config, processes, accepted)
    rows = {
        "parameters": f"{plan.parameters:,}",
        "tokens per clip": f"{plan.tokens_per_clip:,}",
        "arithmetic per clip": f"{plan.flops_per_clip / 1e12:,.3g} TFLOP (forward and backward)",
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
            "epoch " + " ".join(f"{Path(folder).name} {value:.2f}" for folder, value in progress.epochs.items()),
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
