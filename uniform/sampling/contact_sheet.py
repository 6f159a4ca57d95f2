"""Pictures that show several clips at a glance: a row of frames over a spectrogram for each, with its name."""

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

Film = npt.NDArray[np.uint8]
Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """A clip on a contact sheet."""

    title: str
    frames: Film
    """(T, H, W, 3), RGB."""
    waveform: Sound
    """(S,), full scale = 1.0."""


def contact_sheet(entries: Sequence[Entry]) -> bytes:
    """A PNG file: each clip's title, frames and spectrogram, one clip below the other."""
    strips = [strip(enlarged(entry.frames), entry.waveform) for entry in entries]
    width = max(picture.shape[1] for picture in strips)
    height = sum(picture.shape[0] + TITLE_PX + GAP_PX for picture in strips)
    sheet = Image.new("RGB", (width, height), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for entry, picture in zip(entries, strips, strict=True):
        pen.text((4, top + 3), entry.title, fill="black")
        sheet.paste(Image.fromarray(picture), (0, top + TITLE_PX))
        top += TITLE_PX + picture.shape[0] + GAP_PX
    return png_bytes(np.asarray(sheet))


def enlarged(frames: Film) -> Film:
    """Frames for looking at: those that a strip shows stay, and small ones grow by a whole factor."""
    factor = max(1, LEAST_FRAME_PX // frames.shape[2])
    chosen = frames[np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)]
    larger: Film = chosen.repeat(factor, axis=1).repeat(factor, axis=2)
    return larger


def side_by_side(left: Film, right: Film, gap_px: int = 8) -> Film:
    """Two films of one size as one: (T, H, W, 3) twice to (T, H, 2 W + gap, 3)."""
    gap = np.full((*left.shape[:2], gap_px, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=2)
