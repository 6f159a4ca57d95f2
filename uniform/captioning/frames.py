"""Which frames of a clip a captioner sees."""

import numpy as np

from uniform.captioning.base import Frames

RULE = "segment centres"
"""Name of the rule, for fingerprints."""


def segment_centres(total: int, wanted: int) -> list[int]:
    """Numbers of `wanted` frames out of `total`: the middle of each of `wanted` equal parts.

    A clip with fewer frames gives some of them several times. Source: PLLaVA (68 frames, 4 wanted: 8, 25, 42, 58).
    """
    part = (total - 1) / wanted
    start = int(part / 2)
    return [min(total - 1, start + int(np.round(part * number))) for number in range(wanted)]


def chosen(frames: Frames, wanted: int) -> Frames:
    """`wanted` frames of a clip, (wanted, H, W, 3)."""
    return np.ascontiguousarray(frames[segment_centres(len(frames), wanted)])
