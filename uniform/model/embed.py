"""Embedders around the blocks: patches, positions, times, frame rates, captions.

Shapes: B clips, C channels, T latent frames, S tokens per frame, D width, L distinct times per clip, M text tokens.
Names of parameters are STDiT3's (Open-Sora 1.2), so that its checkpoints load key for key.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256
"""Number of sinusoids that encode a time or a frame rate."""


class PatchEmbed(nn.Module):
    """Cells to tokens: one linear map per (1, rows, columns) patch, stored as the equivalent convolution kernel."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, kernel_size=(1, *patch), stride=(1, *patch))

    def forward(self, cells: Tensor) -> Tensor:  # (B, C, T, H, W)
        ph, pw = self.patch
        cells = F.pad(cells, (0, -cells.shape[4] % pw, 0, -cells.shape[3] % ph))
        cells = torch.unflatten(torch.unflatten(cells, 4, (-1, pw)), 3, (-1, ph))  # (B, C, T, h, ph, w, pw)
        patches = cells.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)  # (B, T, S, C * ph * pw)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)  # (B, T, S, D)


def unpatch(patches: Tensor, patch: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Token outputs (B, T, S, ph * pw * C), channel fastest, to cells (B, C, T, rows, columns)."""
    ph, pw = patch
    width = -(-columns // pw)
    cells = torch.unflatten(torch.unflatten(patches, 3, (ph, pw, -1)), 2, (-1, width))  # (B, T, h, w, ph, pw, C)
    cells = cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, C, T, h * ph, w * pw)
    return cells[..., :rows, :columns]


class Mlp(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:  # (..., width_in)
        x = F.gelu(self.fc1(x), approximate="tanh")
        return cast(Tensor, self.fc2(x))  # (..., width_out)


class ScalarEmbed(nn.Module):
    """Embeds a scalar (a diffusion time or a frame rate) to the model's width. Always in float32.

    bfloat16 cannot distinguish neighbouring times above 256, so autocast is switched off here.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Tensor) -> Tensor:  # (...,)
        with torch.autocast(number.device.type, enabled=False):
            x: Tensor = self.mlp(sinusoids(number, FREQUENCIES))
        return x  # (..., D)


class CaptionEmbed(nn.Module):
    """Projects text features to the model's width; holds the null caption, which stands for no text.

    The null caption is a buffer, as in STDiT3: its values come with a checkpoint and are not trained.
    """

    y_embedding: Tensor

    def __init__(self, text_width: int, text_tokens: int, width: int) -> None:
        super().__init__()
        self.register_buffer("y_embedding", torch.zeros(text_tokens, text_width))
        self.y_proj = Mlp(text_width, width, width)

    def forward(self, text: Tensor) -> Tensor:  # (B, M, text_width)
        return cast(Tensor, self.y_proj(text))  # (B, M, D)


def drop_captions(text: Tensor, mask: Tensor, drop: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
    """Replace whole captions by the null caption, at the null caption's own length.

    Args:
        text: (B, M, text_width); mask: bool (B, M), True = token; drop: bool (B,).
        null: (null tokens, text_width).
    Returns: text and mask, M grown to the null caption's length if it was shorter.
    """
    missing = max(null.shape[0] - text.shape[1], 0)
    text, mask = F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))
    padded = F.pad(null.to(text.dtype), (0, 0, 0, text.shape[1] - null.shape[0]))
    shown = torch.arange(text.shape[1], device=text.device) < null.shape[0]
    return torch.where(drop[:, None, None], padded, text), torch.where(drop[:, None], shown, mask)


def sinusoids(number: Tensor, width: int) -> Tensor:
    """(...,) -> float32 (..., width): cosines, then sines, at periods from 2 pi up to 2 pi * 10,000."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=number.device, dtype=torch.float32) / half)
    angles = number.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_code(places: Tensor, width: int) -> Tensor:
    """Coordinates (S, 2) = (row, column) -> float32 (S, width): [sin column, cos column, sin row, cos row].

    Source: Open-Sora 1.2, PositionEmbedding2D; with steps of 1 it is PixArt's. Not learned, not in a checkpoint.
    """
    quarter = width // 4
    rates = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=places.device) / quarter)
    row, column = (places.double()[:, axis, None] * rates for axis in (0, 1))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()
