"""Shared by the stages that encode clips: options, reading clips in batches, and packing arrays."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.clip import Clip
from pipelines.stage import Resources
from pipelines.stage_support.prefetch import Wait, batched, prefetched
from uniform.codecs.base import AudioCodec, VideoCodec, open_audio_codec, open_video_codec
from uniform.errors import ConfigError, MediaError
from uniform.media.clip_file import read_clip
from uniform.spec import Spec, long_spec

KINDS = ("video", "audio")

Arrays = tuple[Tensor, Tensor]
"""Two arrays of one clip: of its video and of its audio."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of every stage that encodes clips."""

    video: str = "dct"
    """Video codec: "dct", or "opensora-v1.2" (paper)."""
    audio: str = "dct"
    """Audio codec: "dct", or "audioldm-s-full-v2" (paper)."""
    video_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the video codec, for instance `weights`, a folder."""
    audio_options: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 1
    """Clips of the spec that each clip holds, one beginning at each whole second; a recipe sets it in [media]."""
    device: str = "auto"
    """auto, cpu, cuda, mps; overridden by a `device` in the options of a codec."""
    gpus: float = 0.0
    """Accelerators per worker on a cluster; a fraction shares one."""
    memory_gb: float = 2.0
    """Main memory per worker."""
    batch_clips: int = 4
    """Clips per batch; halved where they do not fit into memory."""
    prefetch_clips: int = 6
    """Clips that are prefetched, 0 for none; each takes frames x height x width x 3 bytes."""
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
        """Resources of one worker: a core for the codecs, and with an accelerator one for each reading thread."""
        return Resources(cpus=1.0 + (self.decode_threads if self.gpus else 0), gpus=self.gpus, memory_gb=self.memory_gb)

    def codecs(self, spec: Spec) -> tuple[VideoCodec, AudioCodec]:
        """Open both codecs; networks load their weights at first use."""
        video = open_video_codec(self.video, spec, **{"device": self.device, **self.video_options})
        audio = open_audio_codec(self.audio, spec, **{"device": self.device, **self.audio_options})
        return video, audio


@dataclass(frozen=True)
class Media:
    """A clip with its frames and waveform, before encoding."""

    clip: Clip
    """Dropped where its file could not be read; then frames and waveform are empty."""
    frames: Tensor = field(default_factory=lambda: torch.empty(0))
    """uint8 (T, H, W, 3)."""
    waveform: Tensor = field(default_factory=lambda: torch.empty(0))
    """float32 (S,)."""


class Reader:
    """Prefetches clips in threads."""

    def __init__(self, options: EncodeOptions, spec: Spec) -> None:
        self._options, self._spec = options, long_spec(spec, options.windows)
        self._pin = torch.cuda.is_available() and options.device.startswith(("auto", "cuda"))

    def batches(self, clips: Iterator[Clip], wait: Wait) -> Iterator[list[Media]]:
        """Yield batches of clips in order; the time that the caller waits is added to `wait`."""
        options = self._options
        media = prefetched(self._read, clips, ahead=options.prefetch_clips, threads=options.decode_threads, wait=wait)
        yield from batched(media, options.batch_clips)

    def _read(self, clip: Clip) -> Media:
        try:
            frames, waveform = read_clip(clip["mp4"], self._spec)
        except MediaError as error:
            return Media(clip.drop(error.code, error.reason))
        video, audio = torch.from_numpy(frames), torch.from_numpy(waveform)
        if self._pin:
            video, audio = video.pin_memory(), audio.pin_memory()
        return Media(clip, video, audio)


def encoded(
    run: Callable[[Sequence[Media]], Sequence[Arrays | None]], batch: Sequence[Media]
) -> Iterator[tuple[Media, Arrays | None]]:
    """Each clip of a batch with the arrays of `run`; None for one that was not read or does not fit into memory."""
    made = iter(run([one for one in batch if one.clip.dropped is None]))
    return ((one, None if one.clip.dropped else next(made)) for one in batch)


def encode_together(
    batch: Sequence[Media],
    spec: Spec,
    windows: int,
    encode_video: Callable[[Tensor], Tensor],
    encode_audio: Callable[[Tensor], Tensor],
) -> list[Arrays]:
    """Encode a batch in one call per modality; float16 arrays of each clip, on the CPU."""
    with torch.inference_mode():
        video = encode_video(torch.stack([one.frames for one in batch])).half().cpu()
        audio = encode_audio(window_waveforms(batch, spec, windows)).half().cpu()
    return list(zip(video, by_clip(audio, windows), strict=True))


def window_waveforms(batch: Sequence[Media], spec: Spec, windows: int) -> Tensor:
    """The waveform of each of N windows of B clips, clip after clip: (B * N, S)."""
    starts = [second * spec.rate_hz for second in range(windows)]
    return torch.stack([one.waveform[start : start + spec.samples] for one in batch for start in starts])


def by_clip(latents: Tensor, windows: int) -> Tensor:
    """Group the audio arrays of windows by clip: (B * N, C, ...) -> (B, C, N, ...); unchanged for one window."""
    return latents if windows == 1 else latents.reshape(-1, windows, *latents.shape[1:]).transpose(1, 2)


def drop_unless_finite(clip: Clip, arrays: Arrays | None, what: str) -> Clip | None:
    """The dropped clip, where `arrays` are missing or not finite; else None."""
    if arrays is None:
        return clip.drop("out_of_memory", "one clip alone does not fit into the memory of the device")
    for kind, array in zip(KINDS, arrays, strict=True):
        if not array.isfinite().all():
            return clip.drop("not_finite", f"the {kind} {what} holds NaN, infinity, or more than float16 can hold")
    return None


def npy(array: Tensor) -> bytes:
    """A CPU tensor as the bytes of a .npy file in C order."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array.numpy()), allow_pickle=False)
    return file.getvalue()
