"""Reconstruction error of a codec: PSNR and log-mel error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from uniform.codecs.base import AudioCodec, VideoCodec

BEST_PSNR_DB = 100.0
"""PSNR of an exact reconstruction; JSON has no infinity."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one clip after encoding and decoding."""

    psnr_db: float
    """Peak signal-to-noise ratio over all pixels and frames, RGB."""
    mel_error: float
    """Mean absolute difference of the log-mel, nepers (1 neper = 8.7 dB)."""


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """A clip decoded from its latents, with its scores."""

    frames: Tensor
    """uint8 (T, H, W, 3), RGB, on the CPU."""
    waveform: Tensor
    """float32 (S,), on the CPU."""
    scores: Scores


def round_trip(
    video: VideoCodec, audio: AudioCodec, frames: Tensor, waveform: Tensor, video_latent: Tensor, audio_latent: Tensor
) -> RoundTrip:
    """Decode a clip's raw latents and compare.

    Args:
        frames: uint8 (T, H, W, 3), the original frames.
        waveform: float32 (S,), the original audio.
        video_latent: (C, T', H', W'), in the precision in which it is stored.
        audio_latent: (C, time, frequency).
    """
    decoded_frames = video.decode(video_latent[None].float(), len(frames))[0].cpu()
    decoded_waveform = audio.decode(audio_latent[None].float(), len(waveform))[0].cpu()
    scores = Scores(psnr_db=psnr_db(frames, decoded_frames), mel_error=mel_error(audio, waveform, decoded_waveform))
    return RoundTrip(frames=decoded_frames, waveform=decoded_waveform, scores=scores)


def psnr_db(reference: Tensor, decoded: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 images or videos of one shape, in dB; at most `BEST_PSNR_DB`."""
    squares = sum(
        float((a.float() - b.float()).square().sum(dtype=torch.float64))
        for a, b in zip(reference, decoded, strict=True)  # frame by frame: float copies of a clip are large
    )
    return min(BEST_PSNR_DB, 10 * math.log10(255**2 * reference.numel() / squares)) if squares else BEST_PSNR_DB


def mel_error(codec: AudioCodec, reference: Tensor, decoded: Tensor) -> float:
    """Mean absolute difference of the codec's log-mel of two waveforms (S,), in nepers."""
    wanted, found = (codec.log_mel(waveform[None].cpu().float()).cpu() for waveform in (reference, decoded))
    return float((wanted - found).abs().mean())
