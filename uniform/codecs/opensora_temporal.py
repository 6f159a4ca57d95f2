"""The temporal half of the Open-Sora VAE 1.2: four frames of spatial latents become one.

Written from the published layout: attribute names are the checkpoint's keys. It is a 3D network whose convolutions look
back only, but whose group norms cover the whole chunk, so every latent depends on every frame of its chunk.

Shapes: N chunks, T frames, T' = ceil(T / 4) latent frames, h x w latent pixels; 4 channels in, 4 channels out.
Source: Open-Sora 1.2, "VAE Technical Report"; sizes and traps: docs/paper_map.md.
"""

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """Sizes of the temporal VAE; the defaults are the published ones."""

    channels: int = 4
    """Channels of the spatial latent, of the temporal latent, and of the reconstruction."""
    filters: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """Width of each level, in units of `filters`."""
    blocks: int = 4
    """Residual blocks per level and in the tail."""
    downsample: tuple[bool, ...] = (False, True, True)
    """Whether time is halved between one level and the next."""

    @property
    def stride(self) -> int:
        """Frames per latent frame."""
        return prod(2 if halves else 1 for halves in self.downsample)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.filters * multiplier for multiplier in self.multipliers)


class CausalConv3d(nn.Module):
    """Convolution with zero padding in front of the time axis: an output depends on no later frame."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, time_stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.front = kernel - time_stride
        side = kernel // 2
        stride, padding = (time_stride, 1, 1), (0, side, side)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, T, h, w) -> (N, C', ceil(T / time_stride), h, w)
        if self.front:
            x = F.pad(x, (0, 0, 0, 0, self.front, 0))
        out: Tensor = self.conv(x)
        return out


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, inputs)
        self.conv1 = CausalConv3d(inputs, outputs, 3, bias=False)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, outputs)
        self.conv2 = CausalConv3d(outputs, outputs, 3, bias=False)
        self.conv3 = CausalConv3d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:  # (N, C, T, h, w) -> (N, C', T, h, w)
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        out: Tensor = hidden + (x if self.conv3 is None else self.conv3(x))
        return out


def _level(inputs: int, outputs: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(inputs if block == 0 else outputs, outputs) for block in range(blocks))


class TemporalEncoder(nn.Module):
    """Spatial latents to the numbers behind the posterior."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv3d(config.channels, config.filters, 3, bias=False)
        before = (config.filters, *widths[:-1])
        self.block_res_blocks = nn.ModuleList(
            _level(inputs, outputs, config.blocks) for inputs, outputs in zip(before, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=2) if halves else nn.Identity()
            for width, halves in zip(widths, config.downsample, strict=False)
        )
        self.res_blocks = _level(widths[-1], widths[-1], config.blocks)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, 4, T, h, w), stride divides T -> (N, 8, T', h, w)
        x = self.conv_in(x)
        for number, level in enumerate(self.block_res_blocks):
            for block in level:  # type: ignore[attr-defined]
                x = block(x)
            if number < len(self.conv_blocks):
                x = self.conv_blocks[number](x)
        for block in self.res_blocks:
            x = block(x)
        out: Tensor = self.conv2(F.silu(self.norm1(x)))
        return out


class TemporalDecoder(nn.Module):
    """Latents to spatial latents, at `stride` frames a latent frame."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv1 = CausalConv3d(config.channels, widths[-1], 3)
        self.res_blocks = _level(widths[-1], widths[-1], config.blocks)
        above = (*widths[1:], widths[-1])
        self.block_res_blocks = nn.ModuleList(
            _level(inputs, outputs, config.blocks) for inputs, outputs in zip(above, widths, strict=True)
        )
        # Each doubles its channels, which `_channels_to_time` then lays out as two frames.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if halves else nn.Identity()
            for width, halves in zip(widths[1:], config.downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(NORM_GROUPS, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.channels, 3)

    def forward(self, x: Tensor) -> Tensor:  # (N, 4, T', h, w) -> (N, 4, stride * T', h, w)
        x = self.conv1(x)
        for block in self.res_blocks:
            x = block(x)
        for number in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[number]:  # type: ignore[attr-defined]
                x = block(x)
            if number > 0:
                x = self._lengthen(x, self.conv_blocks[number - 1])
        out: Tensor = self.conv_out(F.silu(self.norm1(x)))
        return out

    @staticmethod
    def _lengthen(x: Tensor, convolution: nn.Module) -> Tensor:  # (N, C, T, h, w) -> (N, C, 2 T, h, w) or as it was
        if isinstance(convolution, nn.Identity):
            return x
        doubled: Tensor = convolution(x).unflatten(1, (-1, 2))  # (N, C, 2, T, h, w): the frame is the fast index
        return doubled.transpose(2, 3).flatten(2, 3)


class TemporalVae(nn.Module):
    """Both halves, and the rule for lengths that the stride does not divide: zeros in front, cut off again."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.encoder = TemporalEncoder(config)
        self.decoder = TemporalDecoder(config)
        self.quant_conv = CausalConv3d(2 * config.channels, 2 * config.channels, 1)
        self.post_quant_conv = CausalConv3d(config.channels, config.channels, 1)

    def moments(self, x: Tensor) -> Tensor:
        """Spatial latents (N, 4, T, h, w) to mean and log variance, stacked: (N, 8, ceil(T / 4), h, w)."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.stride, 0))
        out: Tensor = self.quant_conv(self.encoder(x))
        return out

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Latents (N, 4, T', h, w) to spatial latents (N, 4, num_frames, h, w); T' = ceil(num_frames / 4)."""
        decoded: Tensor = self.decoder(self.post_quant_conv(latents))
        return decoded[:, :, decoded.shape[2] - num_frames :]
