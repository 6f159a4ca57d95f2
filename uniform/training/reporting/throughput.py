"""Throughput and data wait of a run, measured with a monotonic clock."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch

from uniform.model.transformer import UniForm
from uniform.training.parallel.processes import Processes
from uniform.training.reporting.cost import clip_flops, clip_tokens, peak_flops
from uniform.training.settings.config import TrainConfig


class Speeds(TypedDict):
    """The fields of `Progress` that are measured times."""

    clips_per_s: float
    tokens_per_s: float
    data_wait: float
    memory_bytes: int
    seconds_left: float
    mfu: float | None


class ThroughputTimer:
    """Measures the time between two `read` calls; time inside `paused` counts as neither training nor waiting."""

    def __init__(
        self, model: UniForm, config: TrainConfig, processes: Processes, precision: torch.dtype | None
    ) -> None:
        self.global_batch, self.processes = config.data.global_batch, processes
        self.tokens = clip_tokens(model)
        self.flops = clip_flops(model)
        self.peak = peak_flops(processes.device, precision)
        self.start()

    def start(self) -> None:
        """Begin a window."""
        self._begin = self._last = time.monotonic()
        self._waited = self._paused = 0.0

    def got_data(self) -> None:
        """The loop has its next batches; it has waited since `step_ended` (or `start`)."""
        self._waited += time.monotonic() - self._last

    def step_ended(self) -> None:
        """The loop starts to wait for its next batches."""
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of this block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begin

    def read(self, steps: int, steps_left: int) -> Speeds:
        """Speeds over the `steps` since the last call; then begin a new window."""
        seconds = max(time.monotonic() - self._begin - self._paused, 1e-9)
        clips_per_s = steps * self.global_batch / seconds
        flops = None if self.peak is None else clips_per_s * self.flops / (self.peak * self.processes.count)
        speeds = Speeds(
            clips_per_s=clips_per_s,
            tokens_per_s=clips_per_s * self.tokens,
            data_wait=min(1.0, self._waited / seconds),
            memory_bytes=memory_bytes(self.processes.device),
            seconds_left=steps_left * seconds / max(steps, 1),
            mfu=flops,
        )
        self.start()
        return speeds


def memory_bytes(device: torch.device) -> int:
    """The largest memory so far: of the accelerator, or of this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
