"""Every random choice of training as a pure function of the seed and the sample's global number.

The global number (`position`) counts samples since step 0 over all processes: step * global_batch + slot. So a resumed
run, or one on another number of processes, draws the same tasks, captions, times and noise for the same samples.
"""

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from uniform.latents.batches.order import Words, keyed
from uniform.pair import Pair
from uniform.tasks import Task

Positions = npt.NDArray[np.int64]


class Stream(IntEnum):
    """What a draw is for; a stream never shares numbers with another. New ones go to the end."""

    ORDER = 0
    TASK = 1
    TEXT_DROP = 2
    CAPTION = 3
    TIME = 4
    NOISE = 5
    WINDOW = 6
    POSTERIOR = 7
    AUDIO_TIME = 8
    """Of the sound, where it has a time of its own; else `TIME` is that of both."""


def bits(seed: int, stream: Stream, positions: Positions) -> Words:
    """(N,) 64 random bits for each position."""
    return keyed(seed, int(stream), positions)


def uniforms(seed: int, stream: Stream, positions: Positions) -> npt.NDArray[np.float64]:
    """(N,) numbers in [0, 1), one for each position."""
    return (bits(seed, stream, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(draws: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Which of K choices each draw falls on.

    Args:
        draws: (N,) in [0, 1).
        weights: (K,) or (N, K), 0 or more, each row with a positive sum.
    Returns: (N,) in 0 .. K-1; a choice of weight 0 is never taken.
    """
    edges = np.cumsum(np.broadcast_to(weights, (len(draws), weights.shape[-1])), axis=1)
    chosen: npt.NDArray[np.int64] = (draws[:, None] * edges[:, -1:] >= edges).sum(axis=1).astype(np.int64)
    return chosen


def tasks(seed: int, units: Positions, weights: Mapping[Task, float]) -> npt.NDArray[np.int64]:
    """(N,) `Task.number` for each unit: positions for one task per sample, steps for one task per batch."""
    shares = np.array([weights.get(task, 0.0) for task in Task], dtype=np.float64)
    return choose(uniforms(seed, Stream.TASK, units), shares)


def noise(seed: int, positions: Positions, like: Pair, stream: Stream = Stream.NOISE) -> Pair:
    """Standard normal noise for each sample, from a generator of its own.

    Args:
        positions: (B,) global sample numbers.
        like: latents of those samples, each (B, ...); gives shapes and device, noise is float32.
        stream: what the noise is for.
    Returns: a Pair shaped as `like`. CPU and CUDA generators give different numbers.
    """
    video = torch.empty(like.video.shape, dtype=torch.float32, device=like.video.device)
    audio = torch.empty(like.audio.shape, dtype=torch.float32, device=like.audio.device)
    generator = torch.Generator(device=video.device)
    for row, word in enumerate(bits(seed, stream, positions).tolist()):
        generator.manual_seed(word >> 1)
        video[row].normal_(generator=generator)
        audio[row].normal_(generator=generator)
    return Pair(video, audio)
