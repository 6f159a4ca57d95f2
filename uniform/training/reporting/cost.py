"""Estimates the cost of a run: tokens, compute, memory, and the peak compute of a device."""

import time

import torch

from uniform.model.config import Checkpointing, ModelConfig
from uniform.model.transformer import UniForm

PEAK_BF16_FLOPS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 tensor-core arithmetic per second by the vendors' data sheets; the first name that fits counts."""

BYTES_PER_PARAMETER = 20
"""float32 weight 4, gradient 4, two moments 8, average 4."""


def clip_tokens(model: UniForm) -> int:
    """Tokens of a clip in the blocks, the task's included."""
    return model.layout.frames * len(model.layout.levels())


def clip_flops(model: UniForm) -> float:
    """Multiplications and additions to train on one clip: forward and backward (twice the forward), no recomputation.

    Linear maps and attention of the blocks; embedders, heads and the caption's keys (under 2% at XL/2) are left out.
    """
    config, frames = model.config, model.layout.frames
    per_frame = len(model.layout.levels())
    width = config.width
    linear = 2 * width**2 * (3 + 1 + 1 + 1 + 2 * config.mlp_ratio)  # qkv, out, query and out of the caption, MLP
    attention = 4 * width
    spatial, temporal = linear + attention * per_frame, linear + attention * frames
    return 3.0 * config.depth * frames * per_frame * (spatial + temporal)


def state_bytes(parameters: int, processes: int, sharded: bool) -> float:
    """Memory per device for weights, gradients, moments and average."""
    return parameters * BYTES_PER_PARAMETER / (processes if sharded else 1)


def activation_bytes(
    config: ModelConfig, tokens: int, clips: int, checkpointing: Checkpointing, bytes_per_number: int
) -> float:
    """Rough memory of the activations that the backward pass of `clips` clips needs.

    Per token and block about 18 + 3 mlp_ratio vectors of the width are kept, 6 + mlp_ratio with selective
    checkpointing, 1 with full checkpointing (and one block's worth while it is computed again).
    """
    vectors = {"none": 18 + 3 * config.mlp_ratio, "selective": 6 + config.mlp_ratio, "full": 1}[checkpointing]
    blocks = 2 * config.depth
    whole = 18 + 3 * config.mlp_ratio if checkpointing != "none" else 0
    return float(clips * tokens * config.width * bytes_per_number * (blocks * vectors + whole))


def peak_flops(device: torch.device, precision: torch.dtype | None) -> float | None:
    """Peak FLOP/s of `device`; None for an unknown accelerator.

    CUDA devices by the table, half of it for float32 (TF32); the CPU by a measured product.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = next((flops for chip, flops in PEAK_BF16_FLOPS.items() if chip in name), None)
        return found if found is None or precision is not None else found / 2
    return _measured_flops(device)


def _measured_flops(device: torch.device, size: int = 768) -> float:
    """The best of five float32 matrix products with the threads that the run uses."""
    left = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        torch.mm(left, left)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
