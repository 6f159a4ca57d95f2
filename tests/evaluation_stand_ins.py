"""Stand-in weights and media of the evaluation's reference numbers: all are functions of a name and a shape.

The numbers in tests/data/evaluation were computed by the original networks with these weights and media.
"""

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.standin import stand_in, stand_in_input

RELU_GAIN = math.sqrt(2.0)


def stand_in_weights(
    shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0, keep: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A whole checkpoint; `gain` scales matrices and kernels, `keep` holds tensors that stay as they are given."""
    kept = keep or {}
    return {key: kept[key] if key in kept else _tensor(key, tuple(shape), gain) for key, shape in shapes.items()}


def _tensor(key: str, shape: tuple[int, ...], gain: float) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_var"):
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        return 1 + 0.2 * torch.randn(shape, generator=generator).abs()
    return stand_in(key, shape) * (gain if len(shape) >= 2 else 1.0)


def stand_in_wave(name: str, samples: int, rate_hz: int) -> Tensor:
    """Mono waveform (samples,), whole multiples of 1/32768: a burst of noise every 0.4 s over two square tones."""
    n = torch.arange(samples)
    decay = 2.0 ** -((n % (rate_hz * 2 // 5)) // (rate_hz // 50)).float()
    seed = zlib.crc32(name.encode())
    low_hz, high_hz = 110 + seed % 330, 1500 + seed % 2500
    low = (n * 2 * low_hz // rate_hz % 2).float() / 8 - 1 / 16
    high = (n * 2 * high_hz // rate_hz % 2).float() / 32 - 1 / 64
    sound = stand_in_input(name, (samples,)) * decay / 8 + (low + high)
    return (sound.clamp(-0.99, 0.99) * 32768).floor() / 32768


def stand_in_video(name: str, frames: int, height: int, width: int) -> Tensor:
    """Frames (frames, height, width, 3), uint8: a ground of patches that slides, a bright square that bounces."""

    def patches(part: str, high: int, wide: int, side: int) -> Tensor:
        grid = stand_in_input(f"{name}.{part}", (-(-high // side), -(-wide // side), 3)) * 48 + 112
        grid = grid.clamp(0, 255).floor().long()
        return grid.repeat_interleave(side, 0).repeat_interleave(side, 1)[:high, :wide]

    size = max(height // 3, 4)
    ground = patches("ground", height, width, 8)
    square = (patches("square", size, size, 4) // 2 + 120).clamp(0, 255)
    path = 2 * (height - size)
    made = []
    for t in range(frames):
        frame = torch.roll(ground, 2 * t, 1).clone()
        fall = (5 * t) % path
        top, left = min(fall, path - fall), (3 * t) % (width - size)
        frame[top : top + size, left : left + size] = square
        for axis in (0, 1):  # edges are softened in whole numbers, so that every machine gets the same
            frame = (torch.roll(frame, 1, axis) + 2 * frame + torch.roll(frame, -1, axis)) // 4
        made.append(frame.to(torch.uint8))
    return torch.stack(made)
