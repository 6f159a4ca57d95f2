"""Stand-in weights for tests: every tensor is a function of its key and its shape, so anyone can rebuild them.

The reference outputs in tests/data were computed by the original implementations with these weights.
"""

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def stand_in(key: str, shape: tuple[int, ...]) -> Tensor:
    """float32 tensor of `shape`: drawn from a generator seeded with the CRC-32 of `key`.

    Matrices and kernels have std 1 / sqrt(fan in), norm scales lie around 1, other vectors around 0.
    """
    noise = _noise(key, shape)
    if len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * noise if key.endswith("weight") else 0.05 * noise


def stand_in_state(
    shapes: Mapping[str, tuple[int, ...]], keep: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A complete checkpoint; tensors of `keep` (fixed buffers) are used unchanged."""
    kept = keep or {}
    return {key: kept[key] if key in kept else stand_in(key, tuple(shape)) for key, shape in shapes.items()}


def stand_in_input(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal input determined by its name."""
    return _noise(f"input:{name}", shape)


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
