"""Frames from their own size to what a network sees: resized and cropped in float32, nothing rounded.

T frames, H x W pixels.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from uniform.evaluation.extractors.contract import VideoRule


def resized(frames: Tensor, rule: VideoRule) -> Tensor:
    """Frames of one clip at the rule's size.

    Args:
        frames: uint8 or float (T, H, W, 3).
        rule: size, crop and filter; `crop` is "squash" or "centre".
    Returns: float32 (T, 3, size, size), in the range of `frames`.
    Source: torch's `interpolate`; the centre crop of MM-Diffusion and JavisBench rounds the long side up.
    """
    images = frames.movedim(-1, 1).float()  # (T, 3, H, W)
    size = rule.size_px
    height, width = images.shape[-2:]
    target = (size, size)
    if rule.crop == "centre":
        scale = size / min(height, width)
        target = (size, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), size)
    images = F.interpolate(
        images, target, mode=rule.filter, align_corners=rule.align_corners, antialias=rule.antialias
    )  # (T, 3, h, w)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return images[..., top : top + size, left : left + size]
