"""Stand-in checkpoints, sounds and frames of the evaluation references in tests/data/evaluation.

Each is a function of a name and a shape, exact on any machine: the reference outputs were computed by the original
networks with these weights on these inputs.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in, stand_in_input

REFERENCES = DATA / "evaluation"
RELU_GAIN = math.sqrt(2.0)
"""Keeps the numbers of networks with ReLUs from dying out."""


def reference(name: str) -> dict[str, Tensor]:
    """The stored outputs of the original network."""
    return load_file(REFERENCES / f"eval_{name}.safetensors")


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of the published file."""
    shapes: dict[str, Any] = json.loads((REFERENCES / f"eval_{name}.keys.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def checkpoint(
    shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0, keep: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A whole checkpoint. `keep` holds the entries that are constants of the method; variances are positive."""
    kept = keep or {}
    made: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key in kept:
            made[key] = kept[key]
        elif key.endswith("num_batches_tracked"):
            made[key] = torch.zeros(shape, dtype=torch.long)
        elif key.endswith("running_var"):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
            made[key] = 1 + 0.2 * noise.abs()
        else:
            made[key] = stand_in(key, shape) * (gain if len(shape) > 1 else 1.0)
    return made


def sound(name: str, samples: int, rate_hz: int) -> Tensor:
    """Mono sound, float32 (samples,), in steps of 1 / 32768: bursts of noise every 0.4 s over two square tones."""
    at = torch.arange(samples)
    decay = 2.0 ** -((at % (rate_hz * 2 // 5)) // (rate_hz // 50)).float()
    seed = zlib.crc32(name.encode())
    low, high = (
        (at * 2 * hz // rate_hz % 2).float() * amplitude - amplitude / 2
        for hz, amplitude in ((110 + seed % 330, 1 / 8), (1500 + seed % 2500, 1 / 32))
    )
    # The tones are exact in float32, so they come first: a rounding elsewhere would move a sample by a step.
    total = stand_in_input(name, (samples,)) * decay / 8 + (low + high)
    return (total.clamp(-0.99, 0.99) * 32768).floor() / 32768


def moving_square(name: str, frames: int, height: int, width: int) -> Tensor:
    """uint8 (frames, height, width, 3): patches that slide by 2 px a frame, before them a bright square that bounces."""
    side = max(height // 3, 4)
    ground = _patches(f"{name}.ground", height, width, 8)
    square = (_patches(f"{name}.square", side, side, 4) // 2 + 120).clamp(0, 255)
    made = []
    for t in range(frames):
        frame = torch.roll(ground, 2 * t, 1).clone()
        fall = (5 * t) % (2 * (height - side))
        top, left = min(fall, 2 * (height - side) - fall), (3 * t) % (width - side)
        frame[top : top + side, left : left + side] = square
        for axis in (0, 1):
            frame = (torch.roll(frame, 1, axis) + 2 * frame + torch.roll(frame, -1, axis)) // 4
        made.append(frame.to(torch.uint8))
    return torch.stack(made)


def _patches(name: str, height: int, width: int, side: int) -> Tensor:
    grid = stand_in_input(name, (-(-height // side), -(-width // side), 3)) * 48 + 112
    colours = grid.clamp(0, 255).floor().long()
    return colours.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]


def assert_equals_original(found: Tensor, original: Tensor, share: float = 1e-4) -> None:
    """Fails where a number differs by more than `share` of the original's maximum."""
    assert found.shape == original.shape
    difference, limit = (found.double() - original.double()).abs().max(), share * original.double().abs().max()
    assert difference <= limit, f"differs by {difference:.3e}, at most {limit:.3e} is allowed"
