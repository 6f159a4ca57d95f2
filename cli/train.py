"""`uniform train`: train a network on latent shards, in this process or in many started by torchrun or Ray Train."""

import functools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from uniform.formatting import format_duration

if TYPE_CHECKING:
    from uniform.latents.fetching.byte_ranges import RemoteBytes
    from uniform.training.reporting.observer import Observer, Progress
    from uniform.training.settings.config import TrainConfig
    from uniform.training.trainer import TrainResult


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How `uniform train` runs a configuration."""

    allowed_changes: tuple[str, ...] = ()
    """Keys in which the run may differ from the checkpoint that it resumes from."""
    samples: Path | None = None
    """File of prompts for background sampling."""
    samples_every: int | None = None
    """Steps between two sampled checkpoints at least; None samples each."""
    ray_workers: int | None = None
    """Processes on a Ray cluster; None trains in this process."""
    ray_address: str | None = None
    """Address of the Ray cluster; None starts Ray on this machine."""
    ray_restarts: int = 3
    """Times that all Ray workers are started again after one died."""

    def __post_init__(self) -> None:
        from uniform.errors import ConfigError

        if self.ray_address is not None and self.ray_workers is None:
            raise ConfigError("--ray-address goes with --ray-workers")
        if self.samples_every is not None and self.samples is None:
            raise ConfigError("--samples-every goes with --samples, a file of prompts")


SAMPLES, RAY = "Samples", "Ray"
"""Titles of panels of the help."""
Config = Annotated[str, typer.Argument(help="A preset (toy, paper, best, budget) or a TOML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example optimiser.learning_rate=2e-4")
]
Shards = Annotated[
    list[str] | None,
    typer.Option("--shards", help="Folder of latent shards, or its URL (s3://, hf://, ...); may be repeated."),
]
Split = Annotated[str | None, typer.Option("--split", help="Only the clips of this split of --shards, usually train.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of this run.")]
AllowChange = Annotated[
    list[str] | None,
    typer.Option("--allow-change", help="Key that may differ from the checkpoint when resuming; may be repeated."),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--samples", rich_help_panel=SAMPLES, help="File of prompts: sample from checkpoints in another process."
    ),
]
SamplesEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=SAMPLES,
        help="With --samples: steps between two of them. Default: each checkpoint.",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray-workers", min=1, rich_help_panel=RAY, help="Train in this many processes of a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", rich_help_panel=RAY, help="Cluster for --ray-workers; without it Ray starts here."),
]
RayRestarts = Annotated[
    int,
    typer.Option(
        "--ray-restarts",
        min=0,
        rich_help_panel=RAY,
        help="Times that --ray-workers are started again after one died.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show sizes, memory and time; train nothing.")]


def train(
    config: Config,
    overrides: Overrides = None,
    shards: Shards = None,
    split: Split = None,
    out: Out = None,
    allow_change: AllowChange = None,
    samples: Samples = None,
    samples_every: SamplesEvery = None,
    ray_workers: RayWorkers = None,
    ray_address: RayAddress = None,
    ray_restarts: RayRestarts = 3,
    dry_run: DryRun = False,
) -> None:
    """Train, or resume from the newest checkpoint. Ctrl-C saves first."""
    from uniform.training.settings.presets import load_config

    options = TrainOptions(
        allowed_changes=tuple(allow_change or ()),
        samples=samples,
        samples_every=samples_every,
        ray_workers=ray_workers,
        ray_address=ray_address,
        ray_restarts=ray_restarts,
    )
    wanted = load_config(config, overrides or (), _config_values(shards, split, out))
    if dry_run:
        _show_plan(config, wanted, options)
        return
    result = _run(wanted, options, None) if ray_workers is None else _run_on_ray(wanted, options, ray_workers)
    if result.checkpoint.exists():
        console.out.print(f"checkpoint: {result.checkpoint}", markup=False)


def _config_values(shards: list[str] | None, split: str | None, out: Path | None) -> dict[str, Any]:
    """The options that set keys of the configuration, by dotted key."""
    from uniform.errors import ConfigError

    values: dict[str, Any] = {}
    if shards:
        only = {"split": split} if split else {}
        values["data.sources"] = [{"folder": folder, **only} for folder in shards]
    elif split is not None:
        raise ConfigError("--split goes with --shards; in a configuration file it is a key of [[data.sources]]")
    return values if out is None else values | {"out": str(out)}


def _run_on_ray(config: "TrainConfig", options: TrainOptions, workers: int) -> "TrainResult":
    """The run, in `workers` processes of a Ray cluster."""
    from pipelines.cluster.train import train_on_ray

    return train_on_ray(
        functools.partial(_run, config, options),
        workers=workers,
        cores=config.compute.threads or 1,
        gpus={"cpu": False, "cuda": True}.get(config.compute.device),
        address=options.ray_address,
        restarts=options.ray_restarts,
    )


def _run(config: "TrainConfig", options: TrainOptions, stop: threading.Event | None) -> "TrainResult":
    """The run, in this process or in a worker of a cluster."""
    from uniform.errors import ConfigError
    from uniform.training.background_sampling import BackgroundSampling
    from uniform.training.sample_metrics import SampleMetrics
    from uniform.training.trainer import train as run

    observers: list[Observer] = [_Console()]
    if options.samples is not None:
        every = options.samples_every or config.checkpoint.every
        metrics = SampleMetrics(config.validation, config.out) if config.validation.metrics else None
        observers.insert(0, BackgroundSampling(options.samples, config.out, every, metrics))
    elif config.validation.metrics:
        raise ConfigError("validation.metrics are those of background samples; give --samples, a file of prompts")
    return run(config, observers, options.allowed_changes, stop)


def _show_plan(name: str, config: "TrainConfig", options: TrainOptions) -> None:
    from uniform.training.plan import ASSUMED_MFU, plan_run
    from uniform.training.settings.presets import base_of, differences

    processes = options.ray_workers or int(os.environ.get("WORLD_SIZE", "1"))
    plan = plan_run(config, processes, options.allowed_changes)
    rows = {
        "parameters": f"{plan.parameters:,}",
        "tokens per clip": f"{plan.tokens_per_clip:,}",
        "compute per clip": f"{plan.flops_per_clip / 1e12:,.3g} TFLOP (forward and backward)",
        "clips": f"{plan.clips:,}  " + ", ".join(f"{folder}: {clips:,}" for folder, clips in plan.folders.items()),
        "steps": f"{plan.steps:,} of {config.data.global_batch} clips; {plan.steps_per_epoch:,.1f} steps per epoch, "
        f"{plan.epochs:,.1f} epochs",
        "memory per device": f"{plan.state_bytes / 1e9:,.2f} GB for weights, gradients, moments and averages, about "
        f"{plan.activation_bytes / 1e9:,.2f} GB for activations",
        "time": "unknown device"
        if plan.seconds is None
        else f"about {format_duration(plan.seconds)} on {processes} of this device, at {ASSUMED_MFU:.0%} of its peak",
        "data": _remote_data(plan.remote_bytes),
        "starts at": f"step {plan.resumes_at}" + (" (newest checkpoint)" if plan.resumes_at else ""),
    }
    for key, value in rows.items():
        console.out.print(f"{key:<20} {value}", markup=False)
    changed = differences(name, config)
    console.out.print(f"{len(changed)} changes against {base_of(name)}", markup=False)
    for key, before, after in changed:
        console.out.print(f"  {key}: {before} -> {after}", markup=False)


def _remote_data(needs: "RemoteBytes | None") -> str:
    """How many bytes a run downloads and caches."""
    if needs is None:
        return "local"
    missing = needs.wanted_bytes - needs.cached_bytes
    how = (
        "whole shards, each once"
        if needs.whole_shards
        else "the bytes of each clip; the cache is smaller than the data, so the rest is downloaded again each epoch"
    )
    return (
        f"remote: {missing / 1e9:,.2f} GB to download of {needs.wanted_bytes / 1e9:,.2f} GB ({how}); "
        f"cache of {needs.cache_bytes / 1e9:,.2f} GB"
    )


class _Console:
    """One line per window of steps, on standard error."""

    def started(self, summary: Mapping[str, Any]) -> None:
        begin = "starts" if summary["step"] == 0 else f"resumes at step {summary['step']:,}"
        console.err.print(
            f"{begin}: {summary['parameters']:,} parameters, {summary['clips']:,} clips, {summary['steps']:,} steps, "
            f"{summary['processes']} x {summary['device']}, {summary['out']}",
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
            f"left {format_duration(progress.seconds_left)}",
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
