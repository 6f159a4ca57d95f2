"""Each sample's loss by clip id, in Parquet: clips with a mismatched caption or audio have high losses.

    <run>/losses/steps-00000001-00000250-0.parquet     steps 1 to 250, seen by process 0

A part is closed with each checkpoint, so that a resumed run neither misses nor repeats a step.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from uniform.atomic import replacing
from uniform.latents.batches.batch import Batch
from uniform.tables import LOCAL, local_name
from uniform.tasks import Task
from uniform.training.saving.run_folder import write_errors
from uniform.training.step import ClipLosses

FOLDER_NAME = "losses"
_NAME = re.compile(r"steps-(\d+)-(\d+)-(\d+)\.parquet")
_TASKS = np.array([str(task) for task in Task])


class SampleLosses:
    """Collects the losses of this process's samples and writes them as parts."""

    def __init__(self, out: Path, rank: int, step: int) -> None:
        """Open the folder of a run with `step` finished steps; parts with later steps are removed, they are done again.

        The first process takes all of them away, for that run may have had more processes. Make it before the first
        step, which no process can end alone.
        """
        self.folder, self.rank = out / FOLDER_NAME, rank
        self._rows: list[dict[str, Any]] = []
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir() if rank == 0 else ():
                match = _NAME.fullmatch(path.name)
                if match and int(match[2]) > step:
                    path.unlink()

    def add(self, step: int, batch: Batch, losses: ClipLosses) -> None:
        """Keep the losses of one batch; `step` counts finished steps, this one included."""
        drawn = losses.drawn
        drawn_values = [drawn.task.float(), *drawn.time, drawn.drop_text.float()]
        task, time, audio_time, dropped, *parts = torch.stack([*drawn_values, *losses.parts.values()]).cpu().numpy()
        columns = dict(zip(losses.parts, parts, strict=True))
        self._rows.append(
            {
                "step": np.full(len(batch), step, dtype=np.int64),
                "position": batch.positions,
                "clip_id": np.array(batch.clip_ids),
                "dataset": np.array(batch.datasets),
                "caption_set": np.array(batch.caption_sets),
                "task": _TASKS[task.astype(np.int64)],
                "time": time,
                "audio_time": audio_time,
                "text_dropped": dropped > 0,
                **columns,
            }
        )

    def close_part(self) -> Path | None:
        """Write the collected losses atomically as one file. Raises: TrainingError where the file cannot be written.

        Returns: its path; None where there is nothing.
        """
        if not self._rows:
            return None
        columns = {name: np.concatenate([row[name] for row in self._rows]) for name in self._rows[0]}
        first, last = int(columns["step"].min()), int(columns["step"].max())
        path = self.folder / f"steps-{first:08d}-{last:08d}-{self.rank}.parquet"
        with write_errors(path), replacing(path) as temporary:
            pq.write_table(pa.table(columns), local_name(temporary), compression="zstd", filesystem=LOCAL)
        self._rows = []
        return path


def read_sample_losses(out: Path) -> pa.Table | None:
    """All parts of a run as one table, in the order of positions; None where the run has none."""
    parts = sorted((out / FOLDER_NAME).glob("steps-*.parquet"))
    if not parts:
        return None
    return pa.concat_tables([pq.read_table(local_name(part), filesystem=LOCAL) for part in parts]).sort_by("position")
