"""What a training run is, in frozen dataclasses. Defaults are the paper's values where it gives one, else ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uniform.diffusion.objective import DiffusionConfig
from uniform.errors import ConfigError
from uniform.latents.batches.mixture import SourceConfig
from uniform.latents.loader.loader import LoaderConfig
from uniform.model.config import ModelConfig
from uniform.tasks import Task
from uniform.training.lora import LoraConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig(LoaderConfig):
    """Which latents, and how they become batches."""

    sources: tuple[SourceConfig, ...] = ()
    """Folders of latent shards."""


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """How often each task is trained, and with which text."""

    t2av: float = 1.0
    """Relative shares; the paper says "randomly selected" (figure 2), we take equal shares."""
    a2v: float = 1.0
    v2a: float = 1.0
    draw: Literal["sample", "batch"] = "sample"
    """A task for each sample (ours: less variance), or one for the whole batch (paper, figure 2)."""
    text_drop: float = 0.5
    """Share of samples whose caption is replaced by the null caption (paper, 3.2.4: half of the time)."""

    def __post_init__(self) -> None:
        for name in ("t2av", "a2v", "v2a"):
            _require(getattr(self, name) >= 0, f"tasks.{name}", getattr(self, name), "0 or more")
        _require(self.t2av + self.a2v + self.v2a > 0, "tasks", "all 0", "above 0 for one task at least")
        _require(0 <= self.text_drop <= 1, "tasks.text_drop", self.text_drop, "in 0 .. 1")

    @property
    def shares(self) -> dict[Task, float]:
        """The relative share of each task."""
        return {Task.T2AV: self.t2av, Task.A2V: self.a2v, Task.V2A: self.v2a}


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with decoupled decay on float32 parameters: the arithmetic of HybridAdam (paper, 4.1)."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`adamw` for all parameters (paper), or Muon for the matrices of the blocks and AdamW for the rest."""
    muon_rate: float = 0.02
    """Learning rate of the matrices under Muon; it warms up and falls as `learning_rate` does."""
    learning_rate: float = 1e-4
    """Paper, 4.1."""
    warmup_steps: int = 1000
    """Linear, then as `schedule` says (paper, 4.1)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up: constant (paper), or a half cosine down to `final_share` at the last step."""
    final_share: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    """Applied to matrices only."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm (ours: Open-Sora's value, the paper gives none)."""
    accumulate: int = 1
    """Micro-batches per step and process."""
    offload: bool = False
    """Keep the moments and the float32 master copy in the CPU's memory, and update there."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimiser.learning_rate", self.learning_rate, "above 0")
        _require(self.muon_rate > 0, "optimiser.muon_rate", self.muon_rate, "above 0")
        _require(self.warmup_steps >= 0, "optimiser.warmup_steps", self.warmup_steps, "0 or more")
        _require(0 <= self.final_share <= 1, "optimiser.final_share", self.final_share, "in 0 .. 1")
        _require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "optimiser.betas", self.betas, "two, < 1"
        )
        _require(self.epsilon > 0, "optimiser.epsilon", self.epsilon, "above 0")
        _require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "0 or more")
        _require(self.clip_norm > 0, "optimiser.clip_norm", self.clip_norm, "above 0")
        _require(self.accumulate >= 1, "optimiser.accumulate", self.accumulate, "1 or more")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The running average of the weights, which samples are made with."""

    decay: float = 0.9999
    """Ours: the paper names none; Open-Sora's value."""
    ramp: bool = True
    """Begin with a short memory: the decay at step s is at most (1 + s) / (10 + s)."""

    def __post_init__(self) -> None:
        _require(0 <= self.decay < 1, "ema.decay", self.decay, "in 0 .. 1, below 1")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is written down, and what stays."""

    every: int = 1000
    """Steps between checkpoints; the last step and a stop by signal are always saved."""
    keep_last: int = 2
    """Newest checkpoints to keep; the one with the lowest validation loss is kept too."""
    keep_every: int | None = None
    """Checkpoints at multiples of this many steps are always kept; None keeps only the newest."""
    background: bool = True
    """Write files while training goes on; the pause is one copy in memory."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_last"):
            _require(getattr(self, name) >= 1, f"checkpoint.{name}", getattr(self, name), "1 or more")
        _require(self.keep_every is None or self.keep_every >= 1, "checkpoint.keep_every", self.keep_every, "1 or more")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logging of a run."""

    every: int = 50
    """Steps per line of the console and window of the statistics. Each step's loss is always written."""
    time_bins: int = 10
    """Diffusion-time bins of the loss statistics."""
    tensorboard: bool = True
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Services that receive the metrics too; each is an extra of the toolkit."""
    project: str = "uniform"
    """Name of the group of runs in trackers."""
    sample_losses: bool = False
    """Write each sample's loss by clip id to Parquet, for `uniform shards difficulty`."""

    def __post_init__(self) -> None:
        for name in ("every", "time_bins"):
            _require(getattr(self, name) >= 1, f"log.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The loss on fixed clips with fixed tasks, times and noise, so that two checkpoints can be compared."""

    every: int | None = None
    """Steps between validations; None runs none."""
    sources: tuple[SourceConfig, ...] = ()
    """Folders, usually with `split = "valid"`; must be given where `every` is."""
    batches: int = 4
    """Global batches per validation."""
    metrics: tuple[str, ...] = ()
    """Metrics of background samples (`uniform train --samples`), for instance "kad_yamnet"; empty measures none."""
    real: Path | None = None
    """Real clips that metrics compare with: a folder, or a list; must be given where `metrics` are."""
    protocol: str = "training"
    """Protocol of the metrics: a name, or a .toml file."""

    def __post_init__(self) -> None:
        _require(self.every is None or self.every >= 1, "validation.every", self.every, "1 or more")
        _require(self.batches >= 1, "validation.batches", self.batches, "1 or more")
        _require(self.every is None or bool(self.sources), "validation.sources", "empty", "a folder at least")
        _require(
            not self.metrics or self.real is not None, "validation.real", "not set", "the real clips of the metrics"
        )


@dataclass(frozen=True, kw_only=True)
class BadStepConfig:
    """What happens when a loss or a gradient is not finite, or a gradient jumps."""

    rule: Literal["stop", "skip"] = "stop"
    """Stop and name the clips, or leave the weights as they were and go on."""
    spike_factor: float | None = None
    """A gradient norm this many times the median of the last 100 counts as bad too; None never."""
    max_skips: int = 10
    """Skipped steps in a row before the run stops after all."""

    def __post_init__(self) -> None:
        _require(self.spike_factor is None or self.spike_factor > 1, "bad_step.spike_factor", self.spike_factor, "> 1")
        _require(self.max_skips >= 1, "bad_step.max_skips", self.max_skips, "1 or more")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the network is run; none of it changes what is learned beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 is autocast around float32 weights; auto is bf16 on CUDA and fp32 on the CPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: a copy of everything in each, or parameters, moments and EMA in shards."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """What the backward pass recomputes to save memory."""
    compile: bool = False
    """torch.compile each block."""
    threads: int | None = None
    """CPU threads per process; None leaves PyTorch's choice."""

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads >= 1, "compute.threads", self.threads, "1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    out: Path = Path("runs/uniform")
    """Folder of this run: checkpoints, logs, curve."""
    seed: int = 0
    steps: int = 10_000
    """Length of the run in optimiser steps."""
    init: Path | None = None
    """Begin with these weights: a UniForm run (its EMA), PixArt or OpenSora-STDiT-v3; None starts afresh."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    bad_step: BadStepConfig = field(default_factory=BadStepConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "1 or more")
        if self.lora.rank is not None and self.init is None:
            raise ConfigError("lora.rank is set, but init is not: adapters stand beside the weights of another run")
        if self.optimiser.kind == "muon" and self.compute.parallel == "fsdp":
            raise ConfigError(
                "optimiser.kind is 'muon', which needs whole matrices in every process; compute.parallel is 'fsdp', "
                "which shards them. Use optimiser.kind=adamw, or compute.parallel=ddp."
            )


def _require(holds: bool, key: str, found: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {found}; it must be {wanted}")
