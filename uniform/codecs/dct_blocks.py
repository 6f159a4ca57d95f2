"""Linear algebra of the weight-free video codec: blocks of 8 x 8 pixels, macroblocks of 2 x 2 blocks, orders in time.

Amplitudes are coefficients of DCT functions with mean square 1, so a mean is a mean whatever the block's size.

H x W pixels, h x w blocks, m x n macroblocks (those of the last row and column may have fewer blocks), g frames.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from uniform.codecs.block_spline import block_means, dct_functions, smooth_line
from uniform.spec import VIDEO_STRIDE_PX

_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)  # ITU-R BT.601 at full range, as in JPEG


def to_ycbcr(rgb: Tensor) -> Tensor:
    """RGB in 0..255, (..., 3), to float32 YCbCr around -1..1, (3, ...)."""
    planes: Tensor = torch.tensordot(
        _tensor(_TO_YCBCR, rgb), rgb.float().div(127.5).sub(1), dims=([1], [rgb.dim() - 1])
    )
    return planes.contiguous()


def to_rgb(planes: Tensor) -> Tensor:
    """The inverse of `to_ycbcr`: (3, ...) to float32 (..., 3), neither rounded nor clamped."""
    rgb: Tensor = torch.tensordot(planes, _tensor(np.linalg.inv(_TO_YCBCR), planes), dims=([0], [1]))
    return rgb.add_(1).mul_(127.5)


def pool_blocks(frames: Tensor) -> Tensor:
    """Mean of each block: (T, H, W, 3), uint8 or float, to float32 (T, h, w, 3)."""
    count, height, width, colours = frames.shape
    rows, columns = height // VIDEO_STRIDE_PX, width // VIDEO_STRIDE_PX
    # Sums of 64 bytes are exact in float32, in any order.
    lines = frames.reshape(count, rows, VIDEO_STRIDE_PX, width * colours).sum(dim=2, dtype=torch.float32)
    blocks = lines.reshape(count, rows, columns, VIDEO_STRIDE_PX, colours).sum(dim=3)
    return blocks / VIDEO_STRIDE_PX**2


def block_orders(plane: Tensor, orders: int = 3) -> Tensor:
    """Amplitudes of the lowest DCT orders in each block: (H, W) to (orders, orders, h, w), rows' order first."""
    functions = _tensor(dct_functions(VIDEO_STRIDE_PX, orders), plane) / VIDEO_STRIDE_PX  # (orders, 8)
    height, width = plane.shape
    blocks = plane.reshape(height // VIDEO_STRIDE_PX, VIDEO_STRIDE_PX, width // VIDEO_STRIDE_PX, VIDEO_STRIDE_PX)
    return torch.einsum("hiwj,ki,lj->klhw", blocks, functions, functions)


def add_orders(plane: Tensor, amplitudes: dict[tuple[int, int], Tensor]) -> Tensor:
    """`plane` (H, W) plus the DCT functions (rows' order, columns' order), each times its amplitudes (h, w)."""
    functions = _tensor(dct_functions(VIDEO_STRIDE_PX, 3), plane)
    for (row_order, column_order), amplitude in amplitudes.items():
        function = torch.outer(functions[row_order], functions[column_order])
        plane = plane + torch.kron(amplitude, function)
    return plane


def to_macroblocks(blocks: Tensor) -> Tensor:
    """Means over each macroblock's blocks: (..., h, w) to (..., m, n)."""
    rows, columns = (_tensor(block_means(size, 2), blocks) for size in blocks.shape[-2:])
    return rows @ blocks @ columns.T


def smooth_plane(means: Tensor, height: int, width: int, block: int) -> Tensor:
    """Smooth planes with the given block means: (..., rows, columns) to (..., H, W)."""
    rows, columns = _tensor(smooth_line(height, block), means), _tensor(smooth_line(width, block), means)
    return rows @ means @ columns.T


def smooth_plane_with_orders(mean: Tensor, down: Tensor, along: Tensor) -> Tensor:
    """A smooth plane whose blocks have this mean and these first orders down and along: (h, w) each to (H, W)."""
    rows, columns = mean.shape
    height, width = rows * VIDEO_STRIDE_PX, columns * VIDEO_STRIDE_PX
    # The product of both axes needs the mixed order too; a smooth plane through the means gives an estimate.
    mixed = block_orders(smooth_plane(mean, height, width, VIDEO_STRIDE_PX), 2)[1, 1]
    amplitudes = torch.cat([torch.cat([mean, along], dim=1), torch.cat([down, mixed], dim=1)])  # (2 h, 2 w)
    down_rows, along_columns = (_tensor(smooth_line(size, VIDEO_STRIDE_PX, 2), mean) for size in (height, width))
    return down_rows @ amplitudes @ along_columns.T


def repeat_over_blocks(macroblocks: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the value of each macroblock for its blocks: (..., m, n) to (..., h, w)."""
    return macroblocks.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :rows, :columns]


def interleave(parts: Tensor, rows: int, columns: int) -> Tensor:
    """Four values of each macroblock to its four blocks: (4, m, n) to (h, w). Values outside the frame are dropped."""
    return F.pixel_shuffle(parts[None], 2)[0, 0, :rows, :columns]


def deinterleave(plane: Tensor) -> Tensor:
    """The inverse of `interleave`: (h, w) to (4, m, n). Missing values are those of the next macroblock, or 0."""
    rows, columns = plane.shape
    plane = plane[None, None]
    if columns % 2:
        plane = F.pad(plane, (0, 1, 0, 0), mode="reflect" if columns > 1 else "constant")
    if rows % 2:
        plane = F.pad(plane, (0, 0, 0, 1), mode="reflect" if rows > 1 else "constant")
    return F.pixel_unshuffle(plane, 2)[0]


def to_time_orders(planes: Tensor, orders: int) -> Tensor:
    """Amplitudes of the lowest DCT orders over the frames: (g, ...) to (orders, ...); orders above g - 1 are 0."""
    functions = _tensor(dct_functions(planes.shape[0], orders), planes)
    amplitudes: Tensor = torch.tensordot(functions / planes.shape[0], planes, dims=([1], [0]))
    return amplitudes


def from_time_orders(amplitudes: Tensor, frames: int) -> Tensor:
    """The frames of these amplitudes: (orders, ...) to (g, ...)."""
    functions = _tensor(dct_functions(frames, amplitudes.shape[0]), amplitudes)
    planes: Tensor = torch.tensordot(functions, amplitudes, dims=([0], [0]))
    return planes


def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """`values` as float32 on the device of `like`."""
    return torch.from_numpy(values).to(like.device, torch.float32)
