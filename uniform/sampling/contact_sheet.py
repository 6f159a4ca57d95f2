"""Contact sheets: for each clip its title, a row of frames and a spectrogram."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from uniform.sampling.render import STRIP_FRAMES, png_bytes, strip

TITLE_PX = 18
GAP_PX = 6
LEAST_FRAME_PX = 128
"""Smaller frames are enlarged to about this width."""

Frames = npt.NDArray[np.uint8]
Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """A clip on a contact sheet."""

    title: str
    frames: Frames
    """(T, H, W, 3), RGB."""
    waveform: Waveform
    """(S,), full scale = 1.0."""


def contact_sheet(entries: Sequence[Entry]) -> bytes:
    """A PNG file with the title, frames and spectrogram of each clip, one clip below the other."""
    strips = [strip(enlarged(entry.frames), entry.waveform) for entry in entries]
    width = max(image.shape[1] for image in strips)
    height = sum(image.shape[0] + TITLE_PX + GAP_PX for image in strips)
    sheet = Image.new("RGB", (width, height), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for entry, image in zip(entries, strips, strict=True):
        pen.text((4, top + 3), entry.title, fill="black")
        sheet.paste(Image.fromarray(image), (0, top + TITLE_PX))
        top += TITLE_PX + image.shape[0] + GAP_PX
    return png_bytes(np.asarray(sheet))


def enlarged(frames: Frames) -> Frames:
    """The frames of a strip; small ones are enlarged by a whole factor."""
    factor = max(1, LEAST_FRAME_PX // frames.shape[2])
    chosen = frames[np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)]
    larger: Frames = chosen.repeat(factor, axis=1).repeat(factor, axis=2)
    return larger


def side_by_side(left: Frames, right: Frames, gap_px: int = 8) -> Frames:
    """Join two videos of equal size: (T, H, W, 3) twice to (T, H, 2 W + gap, 3)."""
    gap = np.full((*left.shape[:2], gap_px, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=2)
