"""From a file to what each extractor sees: decoded once in the media sandbox, then prepared by every extractor's rule.

T frames, H x W pixels, C audio channels, S samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniform.errors import InputError, MediaError
from uniform.evaluation.extractors.contract import AudioRule, VideoRule
from uniform.evaluation.extractors.waveforms import prepared
from uniform.evaluation.protocol import Reading
from uniform.media.notes import NOT_FINITE
from uniform.media.sandbox import MediaSandbox

SILENT_DBFS = -60.0
"""A clip whose root mean square lies below is counted as silent."""
Reconstruct = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Frames uint8 (T, H, W, 3), mono waveform float32 (S,) and its rate -> both after a codec's encoder and decoder."""


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip in the normal form that all extractors read from."""

    frames: np.ndarray | None
    """uint8 (T, H, W, 3), RGB, at `fps`."""
    channels: np.ndarray | None
    """float32 (C, S), full scale 1.0, at `rate_hz`."""
    rate_hz: int
    fps: float
    notes: tuple[str, ...] = ()


def decode(
    sandbox: MediaSandbox, path: Path, start_ms: int, reading: Reading, *, want_video: bool, want_audio: bool
) -> DecodedClip:
    """Decode one clip. Raises MediaError with its code, also "not_finite" for audio that holds NaN or infinity."""
    loaded = sandbox.load(
        path,
        reading.spec,
        start_ms,
        want_video=want_video,
        want_audio=want_audio,
        fit=reading.fit,
        native_audio=True,
    )
    broken = next((note for note in loaded.notes if note.code == NOT_FINITE), None)
    if broken is not None:
        raise MediaError("not_finite", str(broken))
    return DecodedClip(
        frames=loaded.frames,
        channels=loaded.waveform,
        rate_hz=loaded.rate_hz or 0,
        fps=float(reading.fps),
        notes=tuple(map(str, loaded.notes)),
    )


def worst(clip: DecodedClip) -> DecodedClip:
    """The clip frozen at its first frame, and silent: what a metric gives where everything is lost."""
    frames = None if clip.frames is None else np.repeat(clip.frames[:1], len(clip.frames), axis=0)
    channels = None if clip.channels is None else np.zeros_like(clip.channels)
    return replace(clip, frames=frames, channels=channels)


def through_codec(clip: DecodedClip, reconstruct: Reconstruct, rate_hz: int) -> DecodedClip:
    """The clip after the codecs: what a perfect model of their latents could reach.

    Raises: InputError where the clip lacks video or audio: the codecs take both.
    """
    if clip.frames is None or clip.channels is None:
        raise InputError("the codec row needs clips with video and audio; leave it out of the protocol's rows")
    mono = prepared_waveform(clip, AudioRule(rate_hz=rate_hz, channels="mean", remove_dc=False), None).numpy()
    frames, waveform = reconstruct(clip.frames, mono, rate_hz)
    return replace(clip, frames=frames, channels=waveform[None], rate_hz=rate_hz)


def effective_audio_rule(rule: AudioRule, reading: Reading | None) -> AudioRule:
    """The extractor's rule with the protocol's own choices in place of its."""
    if reading is None:
        return rule
    return replace(
        rule,
        channels=reading.channels or rule.channels,
        remove_dc=rule.remove_dc if reading.remove_dc is None else reading.remove_dc,
    )


def prepared_waveform(clip: DecodedClip, rule: AudioRule, reading: Reading | None) -> Tensor:
    """float32 (S,) at the rule's rate, by the rule or by what the protocol has in its place."""
    assert clip.channels is not None
    channels = torch.from_numpy(np.ascontiguousarray(clip.channels))
    return prepared(channels, clip.rate_hz, effective_audio_rule(rule, reading)).contiguous()


def chosen_frames(clip: DecodedClip, rule: VideoRule, frames: int | None) -> Tensor:
    """uint8 (T, H, W, 3): the clip's frames at the rule's rate, the first `frames` of them.

    At another rate the frame that a player would show at each time is taken. Raises MediaError "too_short".
    """
    assert clip.frames is not None
    chosen = np.arange(len(clip.frames))
    if rule.fps is not None and not math.isclose(rule.fps, clip.fps):
        seconds = len(clip.frames) / clip.fps
        ticks = np.arange(max(1, math.floor(seconds * rule.fps + 1e-6))) / rule.fps
        chosen = np.minimum(np.floor(ticks * clip.fps + 1e-6).astype(int), len(clip.frames) - 1)
    wanted = frames if frames is not None else rule.frames
    if wanted is not None:
        chosen = chosen[:wanted]
    if len(chosen) < max(rule.min_frames, wanted or 0):
        raise MediaError("too_short", f"{len(chosen)} frames; the extractor wants {max(rule.min_frames, wanted or 0)}")
    return torch.from_numpy(np.ascontiguousarray(clip.frames[chosen]))


def levels(clip: DecodedClip) -> dict[str, np.ndarray]:
    """Loudness in dBFS and mean change of brightness of a clip, each (1,): the silent and the frozen are counted."""
    from uniform.evaluation.av_align import motion

    found = {}
    if clip.channels is not None:
        power = float(np.mean(np.square(clip.channels, dtype=np.float64)))
        found["rms_dbfs"] = np.array([10 * math.log10(power + 1e-20)], np.float32)
    if clip.frames is not None:
        amount = float(motion(clip.frames).mean()) if len(clip.frames) > 1 else 0.0
        found["motion"] = np.array([amount], np.float32)
    return found
