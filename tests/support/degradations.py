"""Known damage to frames and waveforms, to see which measures notice it."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def blurred(frames: Tensor, factor: int) -> Tensor:
    """uint8 (..., H, W, 3), shrunk by `factor` and brought back."""
    height, width = frames.shape[-3:-1]
    images = frames.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float()
    small = F.interpolate(images, (height // factor, width // factor), mode="area")
    return _pixels(F.interpolate(small, (height, width), mode="bilinear").permute(0, 2, 3, 1)).reshape(frames.shape)


def with_image_noise(frames: Tensor, std: float, seed: int = 0) -> Tensor:
    """Normal noise of `std` grey levels."""
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))
    return _pixels(frames.float() + std * noise)


def through_jpeg(frames: Tensor, quality: int) -> Tensor:
    """Every frame through JPEG."""
    made = []
    for image in frames.reshape(-1, *frames.shape[-3:]).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        made.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(made)).reshape(frames.shape)


def frozen(frames: Tensor) -> Tensor:
    """(B, T, H, W, 3): the first frame for all."""
    return frames[:, :1].repeat(1, frames.shape[1], 1, 1, 1)


def shuffled(frames: Tensor, seed: int = 0) -> Tensor:
    """(B, T, H, W, 3): frames in another order, the same for every clip."""
    return frames[:, torch.randperm(frames.shape[1], generator=torch.Generator().manual_seed(seed))]


def flickering(frames: Tensor, levels: int) -> Tensor:
    """(B, T, H, W, 3): darker and brighter by `levels`, frame by frame."""
    signs = torch.arange(frames.shape[1]) % 2 * 2 - 1
    return _pixels(frames.float() + levels * signs[:, None, None, None])


def with_noise(waveform: Tensor, ratio_db: float, seed: int = 0) -> Tensor:
    """(B, S) with white noise, `ratio_db` below each clip's RMS."""
    level = waveform.square().mean(1, keepdim=True).sqrt() * 10 ** (-ratio_db / 20)
    return waveform + level * torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))


def low_passed(waveform: Tensor, limit_hz: float, rate_hz: int) -> Tensor:
    """(B, S) without everything above `limit_hz`."""
    spectrum = torch.fft.rfft(waveform)
    kept = torch.fft.rfftfreq(waveform.shape[1], 1 / rate_hz) < limit_hz
    return torch.fft.irfft(spectrum * kept, waveform.shape[1])


def _pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
