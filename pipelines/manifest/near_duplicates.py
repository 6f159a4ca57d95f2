"""Clips that are perceptually the same under different names: copied, re-encoded, scaled, shifted by up to half a clip.

Each clip comes as 16 hashes of 64 bits (`pipelines/stages/fingerprint_clip.py`). Two clips are candidates where they
share several quarters of hashes; a candidate is a near-duplicate where most frames agree at some offset in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines.clip import Row
from pipelines.manifest.table import read_rows
from uniform.errors import PipelineError

TABLE = "looks"
SCHEMA = pa.schema([("clip_id", pa.string()), ("look", pa.string())])
"""Given here, not taken from the first file: the table of a unit that kept nothing has columns of no type."""
BANDS = 4
"""A hash is cut into so many parts; two hashes that differ in fewer bits share at least one."""
LARGEST_GROUP = 200
"""A part that more clips share is too common to mean anything: black edges, title cards."""
SHARED_PARTS = 3
CLOSE_BITS = 6
"""Hashes of one frame differ by no more, after scaling and re-encoding."""
LEAST_OVERLAP = 8
"""Frames that two clips must share in time."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two clips and the share of frames that agree at the best offset."""

    first: Row
    second: Row
    share: float

    @property
    def across_splits(self) -> bool:
        """Whether they are in different splits."""
        return self.first.split != self.second.split


def read_hashes(folders: Sequence[Path]) -> tuple[list[Row], NDArray[np.uint64]]:
    """Clips of one or more runs, and their hashes (N, 16). Raises PipelineError for a run without the stage."""
    rows: list[Row] = []
    hashes: list[NDArray[np.uint64]] = []
    for folder in folders:
        if not (folder / TABLE).is_dir():
            raise PipelineError(
                f'{folder} has no perceptual hashes: add a stage with use = "fingerprint_clip" to its recipe, run again'
            )
        known = {row.clip_id: row for row in read_rows(folder / "manifest.parquet")}
        try:
            table = ds.dataset(folder / TABLE, format="parquet", schema=SCHEMA).to_table()
        except (pa.ArrowException, OSError) as error:
            raise PipelineError(f"{folder / TABLE}: cannot be read ({error})") from error
        for clip_id, look in zip(table["clip_id"].to_pylist(), table["look"].to_pylist(), strict=True):
            rows.append(known[clip_id])
            hashes.append(np.frombuffer(bytes.fromhex(look), dtype=">u8").astype(np.uint64))
    return rows, np.stack(hashes) if hashes else np.zeros((0, 16), dtype=np.uint64)


def find_near_duplicates(
    rows: Sequence[Row], hashes: NDArray[np.uint64], least_share: float = 0.75
) -> list[NearDuplicate]:
    """Pairs of clips of different sources that are near-duplicates, the closest first.

    Args:
        rows: N clips.
        hashes: (N, 16).
        least_share: of the frames that overlap in time, 0..1.
    """
    found = []
    for first, second in _candidates(hashes):
        if rows[first].source_id == rows[second].source_id:
            continue  # equal ids show those already
        share = _best_share(hashes[first], hashes[second])
        if share >= least_share:
            found.append(NearDuplicate(rows[first], rows[second], share))
    return sorted(found, key=lambda pair: (-pair.share, pair.first.clip_id, pair.second.clip_id))


def _candidates(hashes: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Pairs that share at least `SHARED_PARTS` parts of their hashes."""
    clips, frames = hashes.shape
    owners = np.repeat(np.arange(clips, dtype=np.int64), frames)
    flat = hashes.reshape(-1)
    hits: list[NDArray[np.int64]] = []
    for band in range(BANDS):
        parts = (flat >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        keys = (parts.astype(np.int64) * max(clips, 1) + owners)[flat != 0]
        keys = np.unique(keys)  # a still clip must not count as many
        part, owner = keys // max(clips, 1), keys % max(clips, 1)
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(part)], strict=True):
            group = owner[start:end]
            if 2 <= len(group) <= LARGEST_GROUP:
                first, second = np.triu_indices(len(group), k=1)
                hits.append(group[first] * clips + group[second])
    if not hits:
        return []
    pairs, counts = np.unique(np.concatenate(hits), return_counts=True)
    return [(int(pair) // clips, int(pair) % clips) for pair in pairs[counts >= SHARED_PARTS]]


def _best_share(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Share of frames that agree, at the best offset of the two in time."""
    differing = np.bitwise_xor(first[:, None], second[None, :])  # (16, 16)
    bits = np.unpackbits(differing.view(np.uint8).reshape(*differing.shape, 8), axis=2).sum(axis=2)
    close = (bits <= CLOSE_BITS) & (first[:, None] != 0) & (second[None, :] != 0)
    reach = len(first) - LEAST_OVERLAP
    return max(float(np.diagonal(close, offset).mean()) for offset in range(-reach, reach + 1))


def to_leave_out(pairs: Sequence[NearDuplicate]) -> list[Row]:
    """One clip of each pair: that of split train where one is, otherwise the second."""
    chosen = {}
    for pair in pairs:
        train_first = pair.first.split == "train" and pair.second.split != "train"
        row = pair.first if train_first else pair.second
        chosen[row.clip_id] = row
    return [chosen[clip_id] for clip_id in sorted(chosen)]
