"""Compute a perceptual hash of each clip, 1,024 bits, to find near-duplicates (`uniform manifest near-duplicates`).

The same video is often uploaded under several ids; then test clips are in the training set, and no id shows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.spec import Spec

FRAMES = 16
"""Hashed frames per clip, evenly spaced."""
ROWS, COLUMNS = 8, 9
"""Cells of mean luma; each bit is 1 where a cell is brighter than its left neighbour."""
PLAIN_LEVELS = 2.0
"""A frame whose cells have a smaller std (of 255) has no structure; its hash is 0."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Outputs the perceptual hash as `look`: 16 hex digits per frame, zeros for a frame without structure."""

    needs = ("mp4",)
    gives = ("look",)
    store = Store("table", "looks")
    resources = Resources(cpus=1.0, memory_gb=0.5)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The version of the hash."""
        return {"version": 1}

    def open(self, context: Context) -> Work:
        """The work; nothing to load."""
        return lambda clips: _hash_all(clips, context.spec)


def _hash_all(clips: Iterator[Clip], spec: Spec) -> Iterator[Clip]:
    for clip in clips:
        try:
            frames, _ = read_clip(clip["mp4"], spec, longer=True)
        except MediaError as error:
            yield clip.drop(error.code, error.reason)
        else:
            yield clip.with_fields(look=perceptual_hash(frames))


def perceptual_hash(frames: NDArray[np.uint8]) -> str:
    """Difference hashes of evenly spaced frames: (T, H, W, 3) uint8 -> 256 hex digits, in temporal order."""
    chosen = frames[np.arange(FRAMES) * len(frames) // FRAMES]
    luma = chosen.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    rows = np.array_split(luma, ROWS, axis=1)
    cells = np.stack([np.stack([c.mean(axis=(1, 2)) for c in np.array_split(r, COLUMNS, axis=2)], 1) for r in rows], 1)
    bits = np.packbits((cells[:, :, 1:] > cells[:, :, :-1]).reshape(FRAMES, -1), axis=1)  # (16, 8)
    bits[cells.std(axis=(1, 2)) < PLAIN_LEVELS] = 0
    return bits.tobytes().hex()
