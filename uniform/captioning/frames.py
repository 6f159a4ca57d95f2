"""Select the frames of a clip that a captioner gets."""

import numpy as np

from uniform.captioning.base import Frames

RULE = "segment centres"
"""Name of the rule, for fingerprints."""


def segment_centres(total: int, wanted: int) -> list[int]:
    """Indices of `wanted` frames out of `total`: the middle of each of `wanted` equal parts.

    A clip with fewer frames repeats some of them. Source: PLLaVA (68 frames, 4 wanted: 8, 25, 42, 58).
    """
    part = (total - 1) / wanted
    start = int(part / 2)
    return [min(total - 1, start + int(np.round(part * number))) for number in range(wanted)]


def chosen(frames: Frames, wanted: int) -> Frames:
    """Select `wanted` frames of a clip: (T, H, W, 3) -> (wanted, H, W, 3)."""
    return np.ascontiguousarray(frames[segment_centres(len(frames), wanted)])
