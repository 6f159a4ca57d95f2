"""A training run small enough for a test: the toy preset with one thin pair of blocks, on random shards."""

from pathlib import Path

from tests.support.shard_folder import write_shard_folder
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import load_config

TINY = (
    "model.depth=1",
    "model.width=32",
    "model.heads=2",
    "data.global_batch=4",
    "data.residency=disk",
    "optimiser.warmup_steps=3",
    "optimiser.schedule=constant",
    "log.every=4",
    "log.tensorboard=false",
    "checkpoint.every=1000",
    "compute.device=cpu",
    "compute.threads=1",
)


def tiny_overrides(root: Path, out: str, *changes: str) -> list[str]:
    """Overrides of the toy preset; the shards are written into `root` where they are not yet there."""
    shards = root / "shards"
    if not shards.exists():
        write_shard_folder(shards, clips=18, unit_clips=8)
    return [*TINY, f'data.sources=[{{folder="{shards}"}}]', f'out="{root / out}"', *changes]


def tiny_config(root: Path, out: str, *changes: str) -> TrainConfig:
    """The configuration of `tiny_overrides`."""
    return load_config("toy", tiny_overrides(root, out, *changes))


def losses(out: Path) -> list[float]:
    """The loss of every step that metrics.jsonl holds."""
    return [line["loss"] for line in read_metrics_log(out, "step")]
