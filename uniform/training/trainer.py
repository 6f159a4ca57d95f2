"""The training loop: the same run in one process or many, stopped and resumed any time.

No random generator has a state: batches, tasks, times and noise follow from the seed and the step. So a resumed run
needs only the weights, the moments and the step, and has the losses of an uninterrupted one.
"""

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uniform.checkpoint_format import CHECKPOINTS_NAME
from uniform.errors import TrainingError
from uniform.latents.batches.batch import Batch
from uniform.signals import on_stop_signal
from uniform.training.optimiser.optimiser import clip_gradients, learning_rate
from uniform.training.parallel.processes import join_processes
from uniform.training.parallel.sharding import to_local, without_sync
from uniform.training.reporting.curve import draw_curve
from uniform.training.reporting.loss_window import LossWindow
from uniform.training.reporting.observer import Observer, Progress, Reporter, TensorBoard
from uniform.training.reporting.sample_losses import SampleLosses
from uniform.training.reporting.throughput import ThroughputTimer
from uniform.training.reporting.trackers import open_trackers
from uniform.training.saving.run_folder import MetricsLog, locked, write_config
from uniform.training.saving.saver import Saver
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import as_json
from uniform.training.setup import Prepared, prepare
from uniform.training.step import ClipLosses, clip_losses, draw
from uniform.training.validation import Validation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a run."""

    step: int
    loss: float
    """Mean of the last window."""
    checkpoint: Path
    """The newest, which holds this step."""
    finished: bool
    """False after a stop by signal."""
    chain: str
    """Batch-hash chain: hash over the ids of all global batches."""


def train(
    config: TrainConfig,
    observers: Sequence[Observer] = (),
    allowed_changes: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train, from the newest checkpoint in `config.out` or from the beginning.

    Args:
        observers: called with progress and results, in the first process.
        allowed_changes: keys in which the run may differ from its checkpoint.
        stop: ends the run after the current step once it is set in one process, as SIGTERM does in the main thread.
    Raises: UniformError; what was saved before stays.
    """
    with join_processes(config.compute) as processes, ExitStack() as stack:
        if processes.first:
            stack.enter_context(locked(config.out))
        processes.wait()
        prepared = prepare(config, processes, allowed_changes)
        if processes.first:
            write_config(config.out, as_json(config))
        watchers = [*observers, *_recorders(config)] if processes.first else []
        for watcher in watchers:
            if isinstance(watcher, Reporter):
                watcher.report_to([other for other in watchers if other is not watcher])
        return Trainer(prepared, watchers).run(stop or threading.Event())


def _recorders(config: TrainConfig) -> list[Observer]:
    """TensorBoard and the trackers that the configuration names."""
    return [*([TensorBoard(config.out)] if config.log.tensorboard else []), *open_trackers(config)]


class Trainer:
    """One run in this process; see `train`."""

    def __init__(self, prepared: Prepared, observers: Sequence[Observer]) -> None:
        self.config, self.processes, self.state = prepared.config, prepared.processes, prepared.state
        self.prepared, self.observers = prepared, observers
        self.window = LossWindow(self.config.log.time_bins, self.processes.device)
        self.saver = Saver(self.config.out / CHECKPOINTS_NAME, self.config.checkpoint)
        self.speed = ThroughputTimer(prepared.state.model, self.config, self.processes, prepared.precision)
        self.validation = Validation(prepared) if self.config.validation.every else None
        self.metrics_log = MetricsLog(self.config.out, self.state.step) if self.processes.first else None
        self.sample_losses = (
            SampleLosses(self.config.out, self.processes.rank, self.state.step)
            if self.config.log.sample_losses
            else None
        )
        self.steps_written: list[dict[str, Any]] = []
        self.last_loss = math.nan

    def run(self, stop: threading.Event) -> TrainResult:
        """All steps that are left, or those before `stop` is set. Raises: UniformError."""
        for observer in self.observers:
            observer.started(self._summary())
        stream = self.prepared.loader.stream(self.state.step, self.config.steps)
        stopped = False
        try:
            with on_stop_signal(lambda _: stop.set()):
                self.speed.start()
                for batches in stream:
                    self.speed.got_data()
                    self._step(batches)
                    stopped = self.processes.any(stop.is_set())
                    self._after_step(stopped)
                    if stopped:
                        break
                    self.speed.step_ended()
                self._save()
                self._announce(self.saver.wait())
        finally:
            stream.close()
            self.prepared.loader.close()
            if self.validation is not None:
                self.validation.loader.close()
            self.saver.close()
            if self.metrics_log is not None:
                self.metrics_log.close()
        return self._end(stopped)

    def _step(self, batches: tuple[Batch, ...]) -> None:
        """One update from one global batch."""
        config, state = self.config, self.state
        share = config.data.global_batch // self.processes.count
        found = [self._backward(batch, share, last=batch is batches[-1]) for batch in batches]
        totals = torch.stack([losses.total.detach().sum() for losses in found]).sum()
        loss = float(self.processes.sum(totals)) / config.data.global_batch
        norm = float(to_local(clip_gradients(state.optimiser.named.values(), config.optimiser.clip_norm)))
        rate = learning_rate(config.optimiser, state.step, config.steps)
        state.add_batch(self.prepared.loader.clip_ids(state.step))
        spike = state.is_spike(norm, config.bad_step.spike_factor)
        good = math.isfinite(loss) and math.isfinite(norm) and not spike
        self.steps_written.append(
            {
                "kind": "step",
                "step": state.step + 1,
                "loss": loss if math.isfinite(loss) else None,
                "grad_norm": norm if math.isfinite(norm) else None,
                "learning_rate": rate,
                "chain": state.chain,
                "skipped": not good,
            }
        )
        if good:
            state.optimiser.update(rate)
            state.ema.update(dict(state.model.named_parameters()), state.step)
            state.norms.append(norm)
            state.skipped = 0
            for batch, losses in zip(batches, found, strict=True):
                self.window.add(losses)
                if self.sample_losses is not None:
                    self.sample_losses.add(state.step + 1, batch, losses)
        else:
            state.optimiser.drop_gradients()
            self._bad_step(batches, found, loss, norm, spike)
        state.step += 1

    def _backward(self, batch: Batch, share: int, last: bool) -> ClipLosses:
        """Gradients of one micro-batch, as its part of the mean over this process's share of the global batch."""
        config, prepared = self.config, self.prepared
        drawn = draw(batch, prepared.objective, config.tasks, config.seed, config.data.global_batch)
        with without_sync(prepared.callable_model, last):
            with torch.autocast(
                self.processes.device.type, dtype=prepared.precision, enabled=prepared.precision is not None
            ):
                losses = clip_losses(prepared.callable_model, prepared.objective, batch, drawn)
            torch.autograd.backward(losses.total.sum() / share)
        return losses

    def _bad_step(
        self, batches: tuple[Batch, ...], found: list[ClipLosses], loss: float, norm: float, spike: bool
    ) -> None:
        """Stop or skip the step by `bad_step.rule`; log the clips either way."""
        mine = [
            (clip_id, float(total))
            for batch, losses in zip(batches, found, strict=True)
            for clip_id, total in zip(batch.clip_ids, losses.total.detach().cpu(), strict=True)
        ]
        clips = [pair for part in self.processes.gather(mine) for pair in part]
        suspects = [clip_id for clip_id, total in clips if not math.isfinite(total)] or [
            clip_id for clip_id, _ in clips
        ]
        rule = self.config.bad_step
        what = f"step {self.state.step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}" + (
            " (a spike)" if spike else ""
        )
        self.state.skipped += 1
        if rule.rule == "skip" and self.state.skipped <= rule.max_skips:
            logger.warning("%s: skipped; clips %s", what, ", ".join(suspects))
            return
        self._write_steps()
        last = self.saver.newest()
        raise TrainingError(
            f"{what}: the run stops, the weights of this step are discarded. Clips: {', '.join(suspects)}. "
            f"The last good checkpoint is {last or 'none yet'}. Look at the clips (uniform shards preview), lower "
            f'optimiser.learning_rate, or set bad_step.rule = "skip".'
        )

    def _after_step(self, stopping: bool) -> None:
        config, step = self.config, self.state.step
        last = step == config.steps or stopping
        self._announce(self.saver.finished())
        if step % config.log.every == 0 or last:
            self._log()
        if self.validation is not None and config.validation.every and step % config.validation.every == 0:
            self._validate(self.validation)
        if step % config.checkpoint.every == 0 or last:
            self._save()

    def _log(self) -> None:
        losses = self.window.read(self.processes)
        window = self.steps_written
        good = [line["loss"] for line in window if line["loss"] is not None and not line["skipped"]]
        norms = [line["grad_norm"] for line in window if line["grad_norm"] is not None]
        self.last_loss = sum(good) / len(good) if good else math.nan
        progress = Progress(
            step=self.state.step,
            steps=self.config.steps,
            loss=self.last_loss,
            grad_norm=sum(norms) / len(norms) if norms else math.nan,
            learning_rate=window[-1]["learning_rate"],
            epochs=self.prepared.loader.mixture.epochs(self.state.step * self.config.data.global_batch),
            losses=losses,
            skipped=sum(line["skipped"] for line in window),
            corrupt=len(self.prepared.loader.corrupt),
            **self.speed.read(len(window), self.config.steps - self.state.step),
        )
        self._write_steps()
        self._write({"kind": "window", **vars(progress)})
        for observer in self.observers:
            observer.progressed(progress)

    def _validate(self, validation: Validation) -> None:
        with self.speed.paused():
            losses = validation.losses()
        self._write({"kind": "validation", "step": self.state.step, "losses": losses})
        for observer in self.observers:
            observer.validated(self.state.step, losses)
        mean = sum(losses.values()) / len(losses)
        if self.state.best is None or mean < self.state.best[0]:
            self.state.best = (mean, self.state.step)
            self._save()

    def _save(self) -> None:
        """Save the state, once per step."""
        if self.saver.step == self.state.step:
            return
        with self.speed.paused():
            if self.sample_losses is not None:
                self.sample_losses.close_part()
            self._announce(self.saver.wait())  # the snapshot reuses the tensors of the last one
            snapshot = self.state.snapshot(self.prepared.metadata)
            self.saver.step = self.state.step
            if not self.processes.first:
                return
            self._write_steps()
            self._announce(self.saver.save(snapshot))

    def _announce(self, paths: Sequence[Path]) -> None:
        for path in paths:
            for observer in self.observers:
                observer.saved(path)

    def _write_steps(self) -> None:
        for line in self.steps_written:
            self._write(line)
        self.steps_written = []
        if self.metrics_log is not None:
            self.metrics_log.flush()

    def _write(self, line: dict[str, Any]) -> None:
        if self.metrics_log is not None:
            self.metrics_log.write(line)

    def _summary(self) -> Mapping[str, Any]:
        loader = self.prepared.loader
        return {
            "step": self.state.step,
            "steps": self.config.steps,
            "parameters": sum(parameter.numel() for parameter in self.state.model.parameters()),
            "clips": loader.mixture.clips,
            "steps_per_epoch": loader.steps_per_epoch,
            "processes": self.processes.count,
            "device": str(self.processes.device),
            "out": str(self.config.out),
        }

    def _end(self, stopped: bool) -> TrainResult:
        if self.processes.first:
            draw_curve(self.config.out)
        why = "stopped by signal" if stopped else "finished"
        for observer in self.observers:
            observer.ended(self.state.step, why)
        path = self.saver.path(self.state.step)
        return TrainResult(self.state.step, self.last_loss, path, not stopped, self.state.chain)
