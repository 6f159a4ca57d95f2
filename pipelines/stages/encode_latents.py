"""Encode clips with the frozen codecs: read and encoded in one worker, decoded back and scored before they are kept.

Threads read the next clips while the accelerator encodes the present ones; frames never leave the worker. What is kept
is the posterior's mean in float16, before shift and scale. The codecs promise that a clip's numbers do not depend on
the clips beside it, so a unit gives the same bytes whatever the batch and whoever does it.
"""

import io
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.prefetch import Wait, prefetched
from pipelines.stage import Context, Resources, Store, Work
from uniform.codecs.base import AudioCodec, VideoCodec, open_audio_codec, open_video_codec
from uniform.codecs.memory import MemoryBatches
from uniform.codecs.score import Scores, round_trip
from uniform.errors import ConfigError, MediaError
from uniform.fingerprint import canonical_json
from uniform.latents.format import AUDIO_MEMBER, LATENTS, META_MEMBER, VIDEO_MEMBER
from uniform.media.clipfile import read_clip
from uniform.spec import Spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; the codecs have versions of their own."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Normalised clip to video and audio latent."""

    needs: ClassVar[tuple[str, ...]] = ("mp4",)  # bytes: a clip of the spec's geometry
    gives: ClassVar[tuple[str, ...]] = (VIDEO_MEMBER, AUDIO_MEMBER, META_MEMBER)
    reads: ClassVar[tuple[str, ...]] = ("split", "labels", "license", "extra")  # they go into META_MEMBER
    store: ClassVar[Store] = Store("tar", LATENTS)

    video: str = "dct"
    """Video codec: "dct", or "opensora-v1.2" for the paper's."""
    audio: str = "dct"
    """Audio codec: "dct", or "audioldm-s-full-v2" for the paper's."""
    video_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the video codec, for instance `weights`, a folder."""
    audio_options: Mapping[str, Any] = field(default_factory=dict)
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
    score_clips: int | None = None
    """Clips of each unit that are decoded back and scored, from its start; None scores all."""
    min_psnr_db: float = 10.0
    """A scored clip below it is rejected: far under any working codec, it catches wrong weights and broken devices."""
    max_mel_error: float = 4.0
    """A scored clip above it is rejected; nepers, mean over the log-mel."""

    def __post_init__(self) -> None:
        least = {"batch_clips": 1, "prefetch_clips": 0, "decode_threads": 1, "score_clips": 0, "gpus": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"encode_latents.{name} is {value}; it must be {minimum} or more")

    @property
    def resources(self) -> Resources:
        """One worker's share of a machine: a core for the codecs and one for each reading thread."""
        return Resources(cpus=1.0 + (self.decode_threads if self.gpus else 0), gpus=self.gpus, memory_gb=self.memory_gb)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The codecs' cards, and what decides which clips stay. Device and batches decide how fast, not what."""
        video, audio = self.codecs(spec)
        limits = {"min_psnr_db": self.min_psnr_db, "max_mel_error": self.max_mel_error}
        return {
            "code_version": CODE_VERSION,
            "video": video.card.as_dict(),
            "audio": audio.card.as_dict(),
            "score": {"clips": self.score_clips, **limits},
        }

    def codecs(self, spec: Spec) -> tuple[VideoCodec, AudioCodec]:
        """Both codecs, opened; networks read their weights when they are first used."""
        video = open_video_codec(self.video, spec, **{"device": self.device, **self.video_options})
        audio = open_audio_codec(self.audio, spec, **{"device": self.device, **self.audio_options})
        return video, audio

    def open(self, context: Context) -> Work:
        """The work; it may be called for many units and keeps the codecs."""
        return Encoder(self, context.spec).work


@dataclass(frozen=True)
class _Media:
    """A clip with its pixels and samples, on its way to the codecs."""

    clip: Clip
    """Has a verdict where the file could not be read; then there is no media."""
    frames: Tensor = field(default_factory=lambda: torch.empty(0))
    """uint8 (T, H, W, 3)."""
    waveform: Tensor = field(default_factory=lambda: torch.empty(0))
    """float32 (S,)."""


class Encoder:
    """A worker's codecs and how far its batches had to shrink."""

    def __init__(self, stage: Stage, spec: Spec) -> None:
        self.waited_share = 0.0
        """Part of the last unit's time that the codecs stood still for want of clips."""
        self._stage, self._spec = stage, spec
        self._video, self._audio = stage.codecs(spec)
        self._fingerprints = {"video": self._video.card.fingerprint, "audio": self._audio.card.fingerprint}
        self._batches = MemoryBatches(stage.batch_clips, (self._video, self._audio))
        self._pin = torch.cuda.is_available() and stage.device.startswith(("auto", "cuda"))

    def work(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Clips of one unit, in order; those that stay have latents."""
        stage, wait, began, kept, to_score = self._stage, Wait(), time.monotonic(), 0, self._stage.score_clips
        media = prefetched(self._read, clips, ahead=stage.prefetch_clips, threads=stage.decode_threads, wait=wait)
        for batch in _batched(media, stage.batch_clips):
            for one, latents in zip(batch, self._encode(batch), strict=True):
                score = to_score is None or kept < to_score
                clip = one.clip if one.clip.verdict else self._finished(one, latents, score)
                kept += clip.verdict is None
                yield clip
        seconds = time.monotonic() - began
        self.waited_share = wait.seconds / seconds if seconds else 0.0
        _logger.info("%d clips encoded in %.1f s, %.0f%% of it waiting", kept, seconds, 100 * self.waited_share)

    def _read(self, clip: Clip) -> _Media:
        try:
            frames, waveform = read_clip(clip["mp4"], self._spec)
        except MediaError as error:
            leave = clip.reject if CODES[error.code].policy == "rejected" else clip.fail
            return _Media(leave(error.code, error.reason))
        picture, sound = torch.from_numpy(frames), torch.from_numpy(waveform)
        if self._pin:
            picture, sound = picture.pin_memory(), sound.pin_memory()
        return _Media(clip, picture, sound)

    def _encode(self, batch: Sequence[_Media]) -> Iterator[tuple[Tensor, Tensor] | None]:
        """float16 latents of each clip in turn; None for a clip that was not read or does not fit into memory."""
        readable = [one for one in batch if one.clip.verdict is None]
        encoded = iter(self._batches.run(self._encode_together, readable))
        return (next(encoded) if one.clip.verdict is None else None for one in batch)

    def _encode_together(self, batch: Sequence[_Media]) -> list[tuple[Tensor, Tensor]]:
        with torch.inference_mode():
            video = self._video.encode(torch.stack([one.frames for one in batch])).half().cpu()
            audio = self._audio.encode(torch.stack([one.waveform for one in batch])).half().cpu()
        return list(zip(video, audio, strict=True))

    def _finished(self, media: _Media, latents: tuple[Tensor, Tensor] | None, score: bool) -> Clip:
        clip = media.clip
        if latents is None:
            return clip.fail("out_of_memory", "one clip alone does not fit into the memory of the device")
        for kind, latent in zip(("video", "audio"), latents, strict=True):
            if not latent.isfinite().all():
                return clip.reject(
                    "not_finite", f"the {kind} latent holds NaN, infinity, or more than float16 can hold"
                )
        scores = None
        if score:
            (scores,) = self._batches.run(lambda pair: [self._scores(media, latents) for _ in pair], [media])
            if scores is None:
                return clip.fail("out_of_memory", "one clip's latents alone do not decode in the memory of the device")
            if scores.psnr_db < self._stage.min_psnr_db or not scores.mel_error <= self._stage.max_mel_error:
                return clip.reject("roundtrip_poor", self._poor(scores))
        video, audio = (_npy(latent) for latent in latents)
        meta = canonical_json(self._facts(clip, scores)).encode()
        return clip.with_fields(**{VIDEO_MEMBER: video, AUDIO_MEMBER: audio, META_MEMBER: meta})

    def _scores(self, media: _Media, latents: tuple[Tensor, Tensor]) -> Scores:
        with torch.inference_mode():
            return round_trip(self._video, self._audio, media.frames, media.waveform, *latents).scores

    def _poor(self, scores: Scores) -> str:
        stage = self._stage
        return (
            f"decoded back, PSNR is {scores.psnr_db:.1f} dB (at least {stage.min_psnr_db}) and the log-mel is "
            f"{scores.mel_error:.2f} nepers off (at most {stage.max_mel_error})"
        )

    def _facts(self, clip: Clip, scores: Scores | None) -> dict[str, Any]:
        row = clip.row
        return {
            "clip_id": row.clip_id,
            "dataset": row.dataset,
            "split": row.split,
            "source_id": row.source_id,
            "start_ms": row.start_ms,
            "duration_ms": self._spec.duration_ms,
            "labels": list(row.labels),
            "license": row.license,
            "extra": dict(row.extra),
            "notes": list(clip.notes),
            "codecs": self._fingerprints,
            "scores": {name: round(value, 3) for name, value in vars(scores).items()} if scores else None,
        }


def _npy(array: Tensor) -> bytes:
    """A CPU tensor as the bytes of a .npy file, C order."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array.numpy()), allow_pickle=False)
    return file.getvalue()


def _batched(items: Iterable[_Media], size: int) -> Iterator[list[_Media]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
