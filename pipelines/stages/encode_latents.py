"""Encode clips with the frozen codecs; reconstruct and score them before they are kept.

Threads read the next clips while the accelerator encodes the present ones; frames never leave the worker. A latent is
the posterior mean in float16, before shift and scale. A clip's latents do not depend on the other clips of its batch,
so a unit gives the same bytes for every batch size and worker.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipelines.clip import Clip
from pipelines.stage import Context, Store, Work
from pipelines.stage_support.encoding import (
    Arrays,
    EncodeOptions,
    Media,
    Reader,
    drop_unless_finite,
    encode_together,
    encoded,
    npy,
)
from pipelines.stage_support.prefetch import Wait
from uniform.codecs.memory import MemoryBatches
from uniform.codecs.score import Scores, round_trip
from uniform.fingerprint import canonical_json
from uniform.latents.format import AUDIO_MEMBER, LATENTS, META_MEMBER, VIDEO_MEMBER
from uniform.spec import Spec, long_spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; the codecs have their own versions."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage(EncodeOptions):
    """Outputs the video and audio latents of a normalised clip, and its metadata."""

    needs: ClassVar[tuple[str, ...]] = ("mp4",)  # bytes: a clip of the spec's geometry
    gives: ClassVar[tuple[str, ...]] = (VIDEO_MEMBER, AUDIO_MEMBER, META_MEMBER)
    reads: ClassVar[tuple[str, ...]] = ("split", "labels", "license", "extra")  # they go into META_MEMBER
    store: ClassVar[Store] = Store("tar", LATENTS)

    score_clips: int | None = None
    """Clips per unit that are reconstructed and scored, from its start; None scores all. Of windows, the first."""
    min_psnr_db: float = 10.0
    """A scored clip below this is rejected: far below any working codec, it finds wrong weights and broken devices."""
    max_mel_error: float = 4.0
    """A scored clip above this is rejected; log-amplitude error (nepers), mean over the log-mel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least("score_clips", 0)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The codecs' cards, and the limits that keep or drop clips. Device and batches change only the speed."""
        video, audio = self.codecs(spec)
        limits = {"min_psnr_db": self.min_psnr_db, "max_mel_error": self.max_mel_error}
        return {
            "code_version": CODE_VERSION,
            "video": video.card.as_dict(),
            "audio": audio.card.as_dict(),
            "score": {"clips": self.score_clips, **limits},
            **_windows_entry(self.windows),
        }

    def open(self, context: Context) -> Work:
        """The work; it can be called for many units and keeps the codecs."""
        return Encoder(self, context.spec).work


class Encoder:
    """A worker's codecs and batch size."""

    def __init__(self, stage: Stage, spec: Spec) -> None:
        self.waited_share = 0.0
        """Share of the last unit's time that the codecs waited for clips."""
        self._stage, self._spec = stage, spec
        self._reader = Reader(stage, spec)
        self._video, self._audio = stage.codecs(spec)
        self._fingerprints = {"video": self._video.card.fingerprint, "audio": self._audio.card.fingerprint}
        self._batches = MemoryBatches(stage.batch_clips, (self._video, self._audio))

    def work(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Encode the clips of one unit, in order."""
        wait, began, kept, to_score = Wait(), time.monotonic(), 0, self._stage.score_clips
        for batch in self._reader.batches(clips, wait):
            for one, latents in encoded(self._encode, batch):
                score = to_score is None or kept < to_score
                clip = one.clip if one.clip.dropped else self._finished(one, latents, score)
                kept += clip.dropped is None
                yield clip
        seconds = time.monotonic() - began
        self.waited_share = wait.seconds / seconds if seconds else 0.0
        _logger.info("%d clips encoded in %.1f s, %.0f%% of it waiting", kept, seconds, 100 * self.waited_share)

    def _encode(self, readable: Sequence[Media]) -> list[Arrays | None]:
        return self._batches.run(self._encode_together, readable)

    def _encode_together(self, batch: Sequence[Media]) -> list[Arrays]:
        return encode_together(batch, self._spec, self._stage.windows, self._video.encode, self._audio.encode)

    def _finished(self, media: Media, latents: Arrays | None, score: bool) -> Clip:
        clip = media.clip
        left = drop_unless_finite(clip, latents, "latent")
        if left is not None or latents is None:
            return left or clip
        scores = None
        if score:
            (scores,) = self._batches.run(lambda pair: [self._scores(media, latents) for _ in pair], [media])
            if scores is None:
                return clip.drop(
                    "out_of_memory", "decoding the latents of one clip alone does not fit into the memory of the device"
                )
            if scores.psnr_db < self._stage.min_psnr_db or not scores.mel_error <= self._stage.max_mel_error:
                return clip.drop("roundtrip_poor", self._poor(scores))
        video, audio = (npy(latent) for latent in latents)
        meta = canonical_json(self._metadata(clip, scores)).encode()
        return clip.with_fields(**{VIDEO_MEMBER: video, AUDIO_MEMBER: audio, META_MEMBER: meta})

    def _scores(self, media: Media, latents: Arrays) -> Scores:
        spec, (video, audio) = self._spec, latents
        if self._stage.windows > 1:
            video, audio = video[:, : spec.latent_frames], audio[:, 0]
        frames, waveform = media.frames[: spec.frames], media.waveform[: spec.samples]
        with torch.inference_mode():
            return round_trip(self._video, self._audio, frames, waveform, video, audio).scores

    def _poor(self, scores: Scores) -> str:
        stage = self._stage
        return (
            f"reconstructed with PSNR {scores.psnr_db:.1f} dB (at least {stage.min_psnr_db}) and log-mel error "
            f"{scores.mel_error:.2f} nepers (at most {stage.max_mel_error})"
        )

    def _metadata(self, clip: Clip, scores: Scores | None) -> dict[str, Any]:
        row = clip.row
        return {
            "clip_id": row.clip_id,
            "dataset": row.dataset,
            "split": row.split,
            "source_id": row.source_id,
            "start_ms": row.start_ms,
            "duration_ms": long_spec(self._spec, self._stage.windows).duration_ms,
            "labels": list(row.labels),
            "license": row.license,
            "extra": dict(row.extra),
            "notes": [str(note) for note in clip.notes],
            "codecs": self._fingerprints,
            "scores": {name: round(value, 3) for name, value in vars(scores).items()} if scores else None,
            **_windows_entry(self._stage.windows),
        }


def _windows_entry(windows: int) -> dict[str, int]:
    """An entry for clips with several windows; others have none, so that their bytes stay those of earlier versions."""
    return {"windows": windows} if windows > 1 else {}
