"""Statistics of a window of steps: losses by task, modality and diffusion time."""

import torch
from torch import Tensor

from uniform.tasks import MODALITIES, Modality, Task
from uniform.training.parallel.processes import Processes
from uniform.training.step import ClipLosses


class LossWindow:
    """Sums of losses since the last `read`, on the device, so that nothing waits for it."""

    def __init__(self, time_bins: int, device: torch.device) -> None:
        self.time_bins, self.device = time_bins, device
        self.names: list[str] = []
        self._start(0)

    def add(self, losses: ClipLosses) -> None:
        """Count the clips of one batch."""
        if not self.names:
            self.names = list(losses.parts)
            self._start(len(self.names))
        drawn = losses.drawn
        parts = torch.stack(list(losses.parts.values()), dim=1).double()  # (B, parts)
        self.task_sums.index_add_(0, drawn.task, parts)
        self.task_clips.index_add_(0, drawn.task, torch.ones_like(drawn.task, dtype=torch.float64))
        for number, modality in enumerate(MODALITIES):
            error = losses.parts[f"{modality}_mse"].double()
            bins = (drawn.time.of(modality) / 1000 * self.time_bins).long().clamp(0, self.time_bins - 1)
            self.bin_sums[number].index_add_(0, bins, error)
            self.bin_clips[number].index_add_(0, bins, drawn.generates.of(modality).double())

    def read(self, processes: Processes) -> dict[str, float]:
        """Means over all processes, by name: `t2av/video_mse`, `video/time_3`; then begin a new window."""
        found: dict[str, float] = {}
        tables = [self.task_sums, self.task_clips, self.bin_sums, self.bin_clips]
        flat = processes.sum(torch.cat([table.flatten() for table in tables])).cpu()
        sums, clips, bin_sums, bin_clips = (
            part.reshape(table.shape)
            for part, table in zip(torch.split(flat, [table.numel() for table in tables]), tables, strict=True)
        )
        for task in Task:
            for column, name in enumerate(self.names):
                if task.generates(_modality_of(name)) and clips[task.number] > 0:
                    found[f"{task}/{name}"] = float(sums[task.number, column] / clips[task.number])
        for row, modality in enumerate(MODALITIES):
            for place in range(self.time_bins):
                if bin_clips[row, place] > 0:
                    found[f"{modality}/time_{place}"] = float(bin_sums[row, place] / bin_clips[row, place])
        self._start(len(self.names))
        return found

    def _start(self, parts: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=self.device)

        self.task_sums, self.task_clips = zeros(len(Task), parts), zeros(len(Task))
        self.bin_sums, self.bin_clips = zeros(2, self.time_bins), zeros(2, self.time_bins)


def _modality_of(part: str) -> Modality:
    return "video" if part.startswith("video") else "audio"
