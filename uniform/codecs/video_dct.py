"""A video codec without weights: a few DCT coefficients of YCbCr, in the geometry of the paper's VAE.

Chunks of 17 frames become 5 latent frames: the first covers 1 frame, the others 4 each. A latent pixel covers a
block of 8 x 8 pixels; 2 x 2 blocks make a macroblock, which is one patch of the transformer.

    channel   a frame alone                               a group of 2 to 4 frames
    0         brightness of the block, mean               brightness, mean
    1         brightness, first order down the rows       brightness, first order in time
    2         brightness, first order along the columns   brightness, second order in time
    3         of the macroblock, by the block's place:    of the macroblock, by the block's place:
      (0, 0)  Cb, mean                                    Cb, mean
      (0, 1)  Cr, mean                                    Cr, mean
      (1, 0)  brightness, second order down the rows      Cb, first order in time
      (1, 1)  brightness, second order along the columns  Cr, first order in time

So an event keeps its frame and its colour. Decoding is linear and keeps every coefficient, so that
`analyse(synthesise(z)) == z`: splines that preserve the lowest coefficients of the blocks interpolate smoothly, and
their error in the second orders is corrected with DCT functions.

T frames, T' latent frames, H x W pixels, h x w blocks, m x n macroblocks, g frames of a group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from uniform.codecs import dct_blocks as dct
from uniform.codecs.base import CodecCard
from uniform.codecs.device import pick_device
from uniform.errors import ConfigError, InputError
from uniform.spec import FRAMES_PER_LATENT, VIDEO_STRIDE_PX, Spec, latent_frames

CHANNELS = 4
MACROBLOCK_PX = 2 * VIDEO_STRIDE_PX
BRIGHTNESS_TIMES = 3
"""Orders in time that a group keeps for brightness."""
COLOUR_TIMES = 2
"""Orders in time that a group keeps for colour."""

# Stds of the amplitudes, by channel and by the block's place in its macroblock: geometric means of two
# measurements, 27 natural clips of 4 s at 256 px and synthetic-world clips at 64 px (96 clips of w1, w2, w3). Raw
# latents are amplitudes divided by them, so that each has about unit variance, whatever its channel holds elsewhere.
FRAME_STDS = ((0.29,) * 4, (0.075,) * 4, (0.075,) * 4, (0.089, 0.089, 0.018, 0.018))
GROUP_STDS = ((0.29,) * 4, (0.069,) * 4, (0.043,) * 4, (0.089, 0.089, 0.015, 0.015))
SHIFT = (-1.5, 0.0, 0.0, 0.0)
"""Between natural clips (-0.8) and the dark synthetic world (-2.2)."""
SCALE = (1.0, 1.0, 1.0, 1.0)


def open_codec(name: str, spec: Spec, device: str = "cpu") -> "DctVideo":
    """The codec for clips of `spec`. Raises ConfigError where the spec does not have four latent channels."""
    if spec.video_channels != CHANNELS:
        raise ConfigError(
            f"spec '{spec.name}': video_channels is {spec.video_channels}; the codec '{name}' makes {CHANNELS}"
        )
    return DctVideo(name=name, chunk_frames=spec.chunk_frames, device=device)


class DctVideo:
    """Frames to DCT coefficients and back; any number of frames, any size that 8 divides."""

    def __init__(self, *, name: str = "dct", chunk_frames: int = 17, device: str = "cpu") -> None:
        self.chunk_frames = chunk_frames
        self.device = pick_device(device)
        self.card = CodecCard(
            name=name,
            code_version=1,
            settings={"chunk_frames": chunk_frames, "frame": FRAME_STDS, "group": GROUP_STDS},
            weights_sha256=None,
            shift=SHIFT,
            scale=SCALE,
        )

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3), RGB -> float32 (B, 4, T', h, w), raw. Raises InputError for another shape or type."""
        if frames.dim() != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise InputError(
                f"frames are {frames.dtype} {tuple(frames.shape)}; wanted uint8 (clips, frames, height, width, 3)"
            )
        # Clip by clip, so that the latents of a clip do not depend on the batch.
        return torch.stack([self.analyse(clip.to(self.device)) for clip in frames])

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """float32 (B, 4, T', h, w), raw -> uint8 (B, num_frames, H, W, 3), RGB. Raises InputError for another shape."""
        if latents.dim() != 5:
            raise InputError(
                f"latents have shape {tuple(latents.shape)}; wanted (clips, {CHANNELS}, time, rows, columns)"
            )
        clips = (self.synthesise(latent.to(self.device, torch.float32), num_frames) for latent in latents)
        return torch.stack([clip.round_().clamp_(0, 255).to(torch.uint8) for clip in clips])

    def analyse(self, frames: Tensor) -> Tensor:
        """uint8 or float (T, H, W, 3), RGB in 0..255 -> float32 (4, T', h, w): the kept coefficients."""
        count, height, width, _ = frames.shape
        if not count or not height or not width or height % VIDEO_STRIDE_PX or width % VIDEO_STRIDE_PX:
            raise InputError(
                f"{count} frames of {width} x {height} px; wanted one or more, and sizes that {VIDEO_STRIDE_PX} divides"
            )
        means = dct.to_ycbcr(dct.pool_blocks(frames))  # (3, T, h, w)
        latents = [
            _analyse_frame(frames[start], means[:, start])
            if length == 1
            else _analyse_group(means[:, start : start + length])
            for start, length in _groups(count, self.chunk_frames)
        ]
        return torch.stack(latents, dim=1)

    def synthesise(self, latent: Tensor, num_frames: int) -> Tensor:
        """float32 (4, T', h, w) -> float32 (num_frames, H, W, 3), RGB around 0..255, neither rounded nor clamped."""
        wanted = latent_frames(num_frames, self.chunk_frames)
        if num_frames < 1 or latent.shape[0] != CHANNELS or latent.shape[1] != wanted:
            found = tuple(latent.shape)
            raise InputError(
                f"latent has shape {found}; {num_frames} frames want ({CHANNELS}, {wanted}, rows, columns)"
            )
        groups = _groups(num_frames, self.chunk_frames)
        planes = [
            _synthesise_frame(coefficients) if length == 1 else _synthesise_group(coefficients, length)
            for (_, length), coefficients in zip(groups, latent.unbind(1), strict=True)
        ]
        return dct.to_rgb(torch.cat(planes, dim=1))


def _groups(frames: int, chunk_frames: int) -> Iterator[tuple[int, int]]:
    """(first frame, frames) of each latent frame; a chunk's odd frames come first, as in the paper's VAE."""
    for chunk in range(0, frames, chunk_frames):
        end = min(chunk + chunk_frames, frames)
        start, length = chunk, (end - chunk) % FRAMES_PER_LATENT or FRAMES_PER_LATENT
        while start < end:
            yield start, length
            start, length = start + length, FRAMES_PER_LATENT


def _analyse_frame(frame: Tensor, means: Tensor) -> Tensor:  # (H, W, 3), (3, h, w) -> (4, h, w)
    rows, columns = means.shape[-2:]
    orders = dct.block_orders(dct.to_ycbcr(frame)[0])  # (3, 3, h, w)
    macroblocks = dct.to_macroblocks(torch.stack([*means[1:], orders[2, 0], orders[0, 2]]))
    mixed = dct.interleave(macroblocks, rows, columns)
    return torch.stack([means[0], orders[1, 0], orders[0, 1], mixed]) / _tile(FRAME_STDS, means)


def _synthesise_frame(latent: Tensor) -> Tensor:  # (4, h, w) -> (3, 1, H, W)
    rows, columns = latent.shape[-2:]
    mean, down, along, mixed = latent * _tile(FRAME_STDS, latent)
    cb, cr, down_2, along_2 = dct.deinterleave(mixed)
    brightness = dct.smooth_plane_with_orders(mean, down, along)
    found = dct.block_orders(brightness)
    second = torch.stack([down_2, along_2]) - dct.to_macroblocks(torch.stack([found[2, 0], found[0, 2]]))
    second = dct.repeat_over_blocks(second, rows, columns)
    missing = {(2, 0): second[0], (0, 2): second[1]}
    height, width = brightness.shape
    colours = dct.smooth_plane(torch.stack([cb, cr]), height, width, MACROBLOCK_PX)
    return torch.cat([dct.add_orders(brightness, missing)[None], colours])[:, None]


def _analyse_group(means: Tensor) -> Tensor:  # (3, g, h, w) -> (4, h, w)
    rows, columns = means.shape[-2:]
    brightness = dct.to_time_orders(means[0], BRIGHTNESS_TIMES)  # (3, h, w)
    colours = dct.to_time_orders(dct.to_macroblocks(means[1:]).transpose(0, 1), COLOUR_TIMES)  # (2, 2, m, n)
    mixed = dct.interleave(colours.flatten(0, 1), rows, columns)
    return torch.cat([brightness, mixed[None]]) / _tile(GROUP_STDS, means)


def _synthesise_group(latent: Tensor, frames: int) -> Tensor:  # (4, h, w) -> (3, g, H, W)
    rows, columns = latent.shape[-2:]
    height, width = rows * VIDEO_STRIDE_PX, columns * VIDEO_STRIDE_PX
    amplitudes = latent * _tile(GROUP_STDS, latent)
    brightness = dct.from_time_orders(amplitudes[:BRIGHTNESS_TIMES], frames)  # (g, h, w)
    macroblocks = (-(-rows // 2), -(-columns // 2))
    colours = dct.deinterleave(amplitudes[3]).reshape(COLOUR_TIMES, 2, *macroblocks)  # by time, then by plane
    colours = dct.from_time_orders(colours, frames).transpose(0, 1)  # (2, g, m, n)
    planes = [dct.smooth_plane(brightness, height, width, VIDEO_STRIDE_PX)[None]]
    return torch.cat([*planes, dct.smooth_plane(colours, height, width, MACROBLOCK_PX)])


def _tile(stds: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """Stds of each channel by the block's place in its macroblock, tiled: (4, h, w)."""
    rows, columns = like.shape[-2:]
    tile = like.new_tensor(stds).reshape(CHANNELS, 2, 2)
    return tile.repeat(1, -(-rows // 2), -(-columns // 2))[:, :rows, :columns]
