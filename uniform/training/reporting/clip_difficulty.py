"""Clip difficulty: sample losses joined with the clips of a folder, to find hard clips and mismatched captions.

A loss says little by itself, for tasks and diffusion times differ more than clips. So each loss is compared with the
usual one of its task, modality and time: excess 0 is usual, 1 is e times as much. A clip that is hard with and without
its caption is a hard clip; one that is hard only with its caption has a caption that lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uniform.atomic import replacing
from uniform.errors import InputError
from uniform.latents.shards.index import open_index
from uniform.tables import LOCAL, local_name
from uniform.tasks import MODALITIES, Task
from uniform.training.reporting.sample_losses import read_sample_losses

TIME_BINS = 10
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClipDifficulty:
    """One clip with one caption set, over the samples that trained it."""

    clip_id: str
    dataset: str
    caption_set: str
    """Empty where the clip has no text."""
    samples: int
    """With the caption."""
    excess: float
    """Mean of log(loss / usual loss) of those samples; 0 is usual."""
    samples_without: int
    """With the null caption instead."""
    excess_without: float | None
    """None where there is no such sample."""


def explain_losses(shards: Path, run: Path, since: int | None = None) -> list[ClipDifficulty]:
    """The clips of a folder of shards by their excess loss in a run, the highest first.

    Args:
        shards: folder with index.parquet.
        run: folder of a run that had `log.sample_losses = true`.
        since: samples of this step and later count; None is the second half of the run, for losses fall at first.
    Raises: ShardError; InputError where the run kept no losses, or none of these clips.
    """
    table = read_sample_losses(run)
    if table is None:
        raise InputError(f"{run}: has no per-sample losses. Train with log.sample_losses=true, then run this again.")
    steps = table["step"].to_numpy()
    first = int(steps.max()) // 2 + 1 if since is None else since
    known = np.isin(np.array(table["clip_id"].to_pylist()), open_index(shards).clip_ids)
    chosen = table.filter(pa.array(known & (steps >= first)))
    if len(chosen) == 0:
        raise InputError(
            f"{run}: of {len(table)} samples up to step {steps.max()}, none from step {first} on is of a clip of "
            f"{shards}. Give a folder that the run was trained on, or an earlier --since."
        )
    return _by_clip(chosen, _excess(chosen))


def write_clip_difficulty(path: Path, found: Sequence[ClipDifficulty]) -> None:
    """Write all rows as Parquet, in their order."""
    columns = {name: [getattr(row, name) for row in found] for name in ClipDifficulty.__dataclass_fields__}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), local_name(temporary), filesystem=LOCAL)


def _excess(table: pa.Table) -> Numbers:
    """(N,): the mean over what a sample generates of log(loss / median loss of its task, modality and time bin)."""
    tasks, bins = np.array(table["task"].to_pylist()), _time_bins(table)
    total, parts = np.zeros(len(table)), np.zeros(len(table))
    for task in Task:
        for modality in MODALITIES:
            if not task.generates(modality):
                continue
            loss = np.log(np.maximum(table[f"{modality}_mse"].to_numpy().astype(np.float64), 1e-12))
            for place in range(TIME_BINS):
                rows = (tasks == str(task)) & (bins == place)
                if rows.any():
                    total[rows] += loss[rows] - np.median(loss[rows])
                    parts[rows] += 1
    excess: Numbers = total / np.maximum(parts, 1)
    return excess


def _time_bins(table: pa.Table) -> npt.NDArray[np.int64]:
    bins: npt.NDArray[np.int64] = (table["time"].to_numpy() / 1000 * TIME_BINS).astype(np.int64)
    return bins.clip(0, TIME_BINS - 1)


def _by_clip(table: pa.Table, excess: Numbers) -> list[ClipDifficulty]:
    dropped = table["text_dropped"].to_numpy(zero_copy_only=False)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(zip(*(table[n].to_pylist() for n in ("clip_id", "dataset", "caption_set")), strict=True)):
        rows.setdefault(key, []).append(row)
    found = []
    for (clip_id, dataset, caption_set), numbers in rows.items():
        mine = np.array(numbers)
        shown, hidden = mine[~dropped[mine]], mine[dropped[mine]]
        if len(shown) or not caption_set:
            found.append(
                ClipDifficulty(
                    clip_id=clip_id,
                    dataset=dataset,
                    caption_set=caption_set,
                    samples=len(shown),
                    excess=float(excess[shown if len(shown) else hidden].mean()),
                    samples_without=len(hidden),
                    excess_without=float(excess[hidden].mean()) if len(hidden) else None,
                )
            )
    return sorted(found, key=lambda row: (-row.excess, row.clip_id, row.caption_set))
