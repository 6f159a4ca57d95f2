"""Frames of any size to the squares that a network wants, in whole numbers as torchvision does it on uint8.

N frames of H x W pixels. Resizing runs on the CPU, so that a frame's numbers are the same on every device.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def short_side_resized(frames: Tensor, size_px: int, interpolation: Filter = "bicubic") -> Tensor:
    """uint8 (N, H, W, 3) -> uint8 (N, 3, h, w), the shorter of h and w being `size_px`; antialiased."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    target = (size_px * height // short, size_px * width // short)
    images = frames.cpu().permute(0, 3, 1, 2)
    if target == (height, width):
        return images
    return F.interpolate(images, target, mode=interpolation, antialias=True, align_corners=False)


def centre_cropped(images: Tensor, size_px: int) -> Tensor:
    """(N, 3, h, w) -> (N, 3, size, size), the middle; half pixels are rounded to the even number."""
    top, left = (round((side - size_px) / 2) for side in images.shape[-2:])
    return images[..., top : top + size_px, left : left + size_px]


def three_crops(images: Tensor, size_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares at the start, the middle and the end of the longer side: each (N, 3, size, size)."""
    height, width = images.shape[-2:]
    middle_top, middle_left = (-((size_px - side) // 2) for side in (height, width))  # half pixels are rounded up

    def at(start: float) -> Tensor:
        top = round(start * (height - size_px)) if height > width else middle_top
        left = round(start * (width - size_px)) if height <= width else middle_left
        return images[..., top : top + size_px, left : left + size_px]

    middle = images[..., middle_top : middle_top + size_px, middle_left : middle_left + size_px]
    return at(0.0), middle, at(1.0)
