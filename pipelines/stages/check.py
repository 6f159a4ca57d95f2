"""Reject clips with still video or silent audio: they teach that the other modality does not matter.

Thresholds measured on 36 real audible clips and a dozen generated ones, 17 fps, 256 x 256, 16 kHz:

    largest range of a block's luma     still video 0.1, natural clips 45 to 254 (of 255)
    RMS level                           silent tracks -180 dBFS, the quietest phone clip -50 dBFS
    samples at full scale               loud clips up to 1.4 %
    audio missing at the edges          late or cut tracks 1,476 and 1,980 ms, others up to 93 ms
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from uniform.errors import ConfigError, MediaError
from uniform.media.clip_file import read_clip
from uniform.media.notes import missing_audio_ms
from uniform.spec import Spec

BLOCKS = 32
SMALLEST_BLOCK_PX = 4
"""Luma is averaged over blocks of 1/32 of the height (8 px of 256), so that noise does not count as motion."""
FULL_SCALE = 0.999
"""A sample at or above this counts as clipped."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Checks normalised clips; has no outputs. A threshold of None switches its check off."""

    needs = ("mp4",)
    gives = ()
    reads = ()
    store = Store("ledger")
    resources = Resources(cpus=1.0, memory_gb=0.5)

    still_floor: float | None = 6.0
    """Luma range (of 255) that at least one block must reach within the clip. Ours."""
    black_ceiling: float | None = 16.0
    """Luma level (of 255) that at least one block must exceed. Ours: limited-range black is 16."""
    silence_floor_dbfs: float | None = -60.0
    """RMS level of the whole clip, dB relative to full scale. Ours."""
    clipped_share: float | None = 0.1
    """Share of samples at full scale, 0..1. Ours."""
    missing_sound_ms: int | None = 500
    """Most time without audio, where the source's audio track begins late, ends early or pauses. Ours."""

    def __post_init__(self) -> None:
        for name, low, high in (("still_floor", 0, 255), ("black_ceiling", 0, 255), ("clipped_share", 0, 1)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"check.{name} is {value}; it must lie in {low}..{high}")
        if self.missing_sound_ms is not None and self.missing_sound_ms < 0:
            raise ConfigError(f"check.missing_sound_ms is {self.missing_sound_ms}; it must be 0 or more")
        if self.silence_floor_dbfs is not None and self.silence_floor_dbfs > 0:
            raise ConfigError(f"check.silence_floor_dbfs is {self.silence_floor_dbfs}; it must be 0 or less")

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The thresholds, and the version of the measurements."""
        return {"version": 3, **asdict(self)}

    def open(self, context: Context) -> Work:
        """The work; nothing to load."""
        return lambda clips: self._check_all(clips, context.spec)

    def _check_all(self, clips: Iterator[Clip], spec: Spec) -> Iterator[Clip]:
        for clip in clips:
            yield self._check(clip, spec)

    def _check(self, clip: Clip, spec: Spec) -> Clip:
        try:
            frames, waveform = read_clip(clip["mp4"], spec, longer=True)
        except MediaError as error:
            return clip.drop(error.code, error.reason)
        blocks = block_luma(frames)
        return (
            self._check_video(clip, blocks) or self._check_audio(clip, waveform) or self._check_coverage(clip) or clip
        )

    def _check_video(self, clip: Clip, blocks: NDArray[np.float32]) -> Clip | None:
        brightest = float(blocks.max())
        if self.black_ceiling is not None and brightest <= self.black_ceiling:
            return clip.drop("black", f"brightest block {brightest:.1f} of 255, ceiling {self.black_ceiling:g}")
        swing = float((blocks.max(axis=0) - blocks.min(axis=0)).max())
        if self.still_floor is not None and swing < self.still_floor:
            return clip.drop("still", f"no block varies by more than {swing:.1f} of 255, floor {self.still_floor:g}")
        return None

    def _check_audio(self, clip: Clip, waveform: NDArray[np.float32]) -> Clip | None:
        level = level_dbfs(waveform)
        if self.silence_floor_dbfs is not None and level < self.silence_floor_dbfs:
            return clip.drop("silent", f"RMS {level:.1f} dBFS, floor {self.silence_floor_dbfs:g} dBFS")
        share = float((np.abs(waveform) >= FULL_SCALE).mean())
        if self.clipped_share is not None and share > self.clipped_share:
            return clip.drop("clipped", f"{share:.1%} of samples at full scale, limit {self.clipped_share:.1%}")
        return None

    def _check_coverage(self, clip: Clip) -> Clip | None:
        missing_ms = missing_audio_ms(clip.notes)
        if self.missing_sound_ms is not None and missing_ms > self.missing_sound_ms:
            gaps = "; ".join(str(note) for note in clip.notes if missing_audio_ms([note]))
            return clip.drop("av_length", f"{gaps}; limit {self.missing_sound_ms:,} ms")
        return None


def block_luma(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean luma (BT.601) of square blocks: (T, H, W, 3) uint8 -> (T, H // block, W // block) float32, 0..255."""
    block = max(frames.shape[1] // BLOCKS, SMALLEST_BLOCK_PX)
    rows, columns = frames.shape[1] // block, frames.shape[2] // block
    kept = frames[:, : rows * block, : columns * block]
    means = kept.reshape(len(frames), rows, block, columns, block, 3).mean(axis=(2, 4), dtype=np.float32)
    luma: NDArray[np.float32] = means @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return luma


def level_dbfs(waveform: NDArray[np.float32]) -> float:
    """RMS level in dB relative to full scale; -180 for digital silence."""
    return float(20 * np.log10(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)) + 1e-9))
