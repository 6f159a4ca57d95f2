"""What the stages that encode clips share: the options, and the road from a clip's bytes to the codecs."""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.clip import Clip
from pipelines.stage import Resources
from pipelines.stage_support.prefetch import Wait, prefetched
from uniform.codecs.base import AudioCodec, VideoCodec, open_audio_codec, open_video_codec
from uniform.errors import ConfigError, MediaError
from uniform.media.clip_file import read_clip
from uniform.spec import Spec, long_spec

KINDS = ("video", "audio")

Arrays = tuple[Tensor, Tensor]
"""Of one clip: what belongs to its video, and what belongs to its audio."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of every stage that encodes clips."""

    video: str = "dct"
    """Video codec: "dct", or "opensora-v1.2" for the paper's."""
    audio: str = "dct"
    """Audio codec: "dct", or "audioldm-s-full-v2" for the paper's."""
    video_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the video codec, for instance `weights`, a folder."""
    audio_options: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 1
    """Clips of the spec that each clip holds, one beginning at each whole second; a recipe sets it in [media]."""
    device: str = "auto"
    """auto, cpu, cuda, mps. An option of this name under a codec's options goes before it."""
    gpus: float = 0.0
    """Accelerators that one worker reserves on a cluster; a fraction shares one."""
    memory_gb: float = 2.0
    """Main memory that one worker reserves."""
    batch_clips: int = 4
    """Clips that go to the codecs together; halved where they do not fit into memory."""
    prefetch_clips: int = 6
    """Clips read ahead of the codecs, 0 for none; each takes frames x height x width x 3 bytes."""
    decode_threads: int = 1
    """Threads that read clips."""

    def __post_init__(self) -> None:
        for name in ("windows", "batch_clips"):
            self.require_at_least(name, 1)
        for name in ("prefetch_clips", "decode_threads", "gpus"):
            self.require_at_least(name, 0)

    def require_at_least(self, name: str, minimum: int) -> None:
        """Raise ConfigError where an option that is set lies below `minimum`."""
        value = getattr(self, name)
        if value is not None and value < minimum:
            stage = type(self).__module__.rpartition(".")[2]
            raise ConfigError(f"{stage}.{name} is {value}; it must be {minimum} or more")

    @property
    def resources(self) -> Resources:
        """One worker's share of a machine: a core for the codecs and one for each reading thread."""
        return Resources(cpus=1.0 + (self.decode_threads if self.gpus else 0), gpus=self.gpus, memory_gb=self.memory_gb)

    def codecs(self, spec: Spec) -> tuple[VideoCodec, AudioCodec]:
        """Both codecs, opened; networks read their weights when they are first used."""
        video = open_video_codec(self.video, spec, **{"device": self.device, **self.video_options})
        audio = open_audio_codec(self.audio, spec, **{"device": self.device, **self.audio_options})
        return video, audio


@dataclass(frozen=True)
class Media:
    """A clip with its pixels and samples, on its way to the codecs."""

    clip: Clip
    """Has a verdict where the file could not be read; then there is no media."""
    frames: Tensor = field(default_factory=lambda: torch.empty(0))
    """uint8 (T, H, W, 3)."""
    waveform: Tensor = field(default_factory=lambda: torch.empty(0))
    """float32 (S,)."""


class Reader:
    """Reads clips ahead of the codecs, in threads."""

    def __init__(self, options: EncodeOptions, spec: Spec) -> None:
        self._options, self._spec = options, long_spec(spec, options.windows)
        self._pin = torch.cuda.is_available() and options.device.startswith(("auto", "cuda"))

    def batches(self, clips: Iterator[Clip], wait: Wait) -> Iterator[list[Media]]:
        """The clips in order, `batch_clips` at a time; `wait` grows by the time that the caller waited for them."""
        options = self._options
        media = prefetched(self._read, clips, ahead=options.prefetch_clips, threads=options.decode_threads, wait=wait)
        while batch := list(itertools.islice(media, options.batch_clips)):
            yield batch

    def _read(self, clip: Clip) -> Media:
        try:
            frames, waveform = read_clip(clip["mp4"], self._spec)
        except MediaError as error:
            return Media(clip.drop(error.code, error.reason))
        picture, sound = torch.from_numpy(frames), torch.from_numpy(waveform)
        if self._pin:
            picture, sound = picture.pin_memory(), sound.pin_memory()
        return Media(clip, picture, sound)


def encoded(
    run: Callable[[Sequence[Media]], Sequence[Arrays | None]], batch: Sequence[Media]
) -> Iterator[tuple[Media, Arrays | None]]:
    """Each clip of a batch with what `run` made of it; None for one that was not read or does not fit into memory."""
    made = iter(run([one for one in batch if one.clip.dropped is None]))
    return ((one, None if one.clip.dropped else next(made)) for one in batch)


def window_sounds(batch: Sequence[Media], spec: Spec, windows: int) -> Tensor:
    """The sound of every window of B clips, clip after clip: (B * N, S)."""
    starts = [second * spec.rate_hz for second in range(windows)]
    return torch.stack([one.waveform[start : start + spec.samples] for one in batch for start in starts])


def by_clip(latents: Tensor, windows: int) -> Tensor:
    """Audio arrays of windows (B * N, C, ...) as those of clips: (B, C, N, ...), or unchanged for one window."""
    return latents if windows == 1 else latents.reshape(-1, windows, *latents.shape[1:]).transpose(1, 2)


def not_kept(clip: Clip, arrays: Arrays | None, what: str) -> Clip | None:
    """The clip with its verdict, where `arrays` cannot be kept; else None."""
    if arrays is None:
        return clip.drop("out_of_memory", "one clip alone does not fit into the memory of the device")
    for kind, array in zip(KINDS, arrays, strict=True):
        if not array.isfinite().all():
            return clip.drop("not_finite", f"the {kind} {what} holds NaN, infinity, or more than float16 can hold")
    return None


def npy(array: Tensor) -> bytes:
    """A CPU tensor as the bytes of a .npy file, C order."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array.numpy()), allow_pickle=False)
    return file.getvalue()
