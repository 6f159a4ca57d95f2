"""The events of a training run, and their observers: the console, TensorBoard, trackers, tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of the run, once per window of steps."""

    step: int
    steps: int
    loss: float
    """Mean of the window."""
    grad_norm: float
    learning_rate: float
    clips_per_s: float
    tokens_per_s: float
    data_wait: float
    """Share of the time in which the model waited for data, 0 to 1."""
    memory_bytes: int
    """Largest so far: of the accelerator, or of the process."""
    seconds_left: float
    mfu: float | None
    """Share of the device's peak arithmetic; None where the peak is unknown."""
    epochs: Mapping[str, float]
    """Epochs of each folder so far."""
    losses: Mapping[str, float]
    """Means by task and part (`v2a/audio_mse`) and by modality and time bin (`audio/time_3`)."""
    skipped: int
    """Bad steps of the window that left the weights as they were."""
    corrupt: int
    """Damaged clips that this process has replaced."""


class Observer(Protocol):
    """Called in the first process only; an exception ends the run."""

    def started(self, summary: Mapping[str, Any]) -> None:
        """The run starts or resumes: parameters, clips, step, device."""
        ...

    def progressed(self, progress: Progress) -> None:
        """A window of steps is over."""
        ...

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        """The losses on the validation clips are known."""
        ...

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""
        ...

    def ended(self, step: int, why: str) -> None:
        """The run is over: "finished" or "stopped by signal"."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """An observer that has numbers of its own for the others, for instance metrics of samples."""

    def report_to(self, others: Sequence[Observer]) -> None:
        """Given once, before the run starts: the other observers."""
        ...


class TensorBoard:
    """Scalars for TensorBoard, under <run>/tensorboard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def started(self, summary: Mapping[str, Any]) -> None:
        self.writer.add_text("run", "\n\n".join(f"{key}: {value}" for key, value in summary.items()))

    def progressed(self, progress: Progress) -> None:
        numbers = {
            "train/loss": progress.loss,
            "train/grad_norm": progress.grad_norm,
            "train/learning_rate": progress.learning_rate,
            "speed/clips_per_s": progress.clips_per_s,
            "speed/tokens_per_s": progress.tokens_per_s,
            "speed/data_wait": progress.data_wait,
            "speed/hours_left": progress.seconds_left / 3600,
            "memory/gigabytes": progress.memory_bytes / 1e9,
            "bad/skipped_steps": progress.skipped,
            "bad/damaged_clips": progress.corrupt,
            **({} if progress.mfu is None else {"speed/mfu": progress.mfu}),
            **{f"epochs/{folder}": value for folder, value in progress.epochs.items()},
            **{f"losses/{name}": value for name, value in progress.losses.items()},
        }
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, progress.step)

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.writer.add_scalar(f"validation/{name}", value, step)

    def saved(self, path: Path) -> None:
        self.writer.flush()

    def ended(self, step: int, why: str) -> None:
        self.writer.close()
