"""Run the detectors of `uniform.evaluation` on a clip of the synthetic world, without the truth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from uniform.evaluation.audio_events import audio_events, band_levels, loudness, pitch_energies
from uniform.evaluation.video_events import Region, nearest_colour, track_ball, turning_speed, video_events
from uniform.spec import Spec
from uniform.synthetic.scene import COLOURS, PITCHES_HZ
from uniform.synthetic.video import HUB

_TWO_BALL_WORLDS = ("w2", "w5")


@dataclass(frozen=True, kw_only=True)
class DetectedBall:
    """A detected ball."""

    colour: str
    """A key of COLOURS, or "grey"."""
    impacts_s: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Results of all detectors on one clip."""

    balls: tuple[DetectedBall, ...]
    """One ball, or the left and the right one in worlds with two; empty in w3."""
    sounds_s: np.ndarray
    """Onset of every sound."""
    sounds_of_pitch_s: Mapping[str, np.ndarray]
    """Onsets of sounds in the band of each pitch class."""
    pitch: str | None
    """The class with the most energy after the onsets; None without any sound."""
    level_db: float
    """The loudest 60 ms, dB relative to full scale."""
    loudness: np.ndarray
    """(T,) around each frame, full scale 1."""
    speed_hz: np.ndarray
    """(T,) turns per second, in w3; else empty."""


def observe(world: str, frames: np.ndarray, waveform: np.ndarray, spec: Spec) -> Observation:
    """Run the detectors of `world`.

    Args:
        world: determines whether to detect one or two balls or a motor.
        frames: uint8 (T, H, W, 3), RGB, at spec.fps.
        waveform: float32 (S,), in [-1, 1], at spec.rate_hz.
        spec: the clip's rates.
    """
    regions: tuple[Region, ...] = ("left", "right") if world in _TWO_BALL_WORLDS else ("whole",)
    balls: list[DetectedBall] = []
    speed = np.empty(0)
    for region in regions:
        track = track_ball(frames, region)
        if world == "w3":
            middle = frames.shape[2] / frames.shape[1] / 2
            speed = turning_speed(track, spec.fps, (middle, HUB))
        else:
            balls.append(DetectedBall(colour=nearest_colour(track, COLOURS), impacts_s=video_events(track, spec.fps)))
    levels = band_levels(waveform, spec.rate_hz)
    sounds = audio_events(levels)
    loud = loudness(waveform, spec.rate_hz, spec.fps, len(frames))
    return Observation(
        balls=tuple(balls),
        sounds_s=sounds,
        sounds_of_pitch_s={
            name: audio_events(levels, band_hz=(pitch * 2**-0.4, pitch * 2**0.4)) for name, pitch in PITCHES_HZ.items()
        },
        pitch=_pitch(waveform, spec.rate_hz, sounds),
        level_db=float(20 * np.log10(loud.max(initial=0.0) + 1e-6)),
        loudness=loud,
        speed_hz=speed,
    )


def _pitch(waveform: np.ndarray, rate_hz: int, begins_s: np.ndarray) -> str | None:
    if not len(begins_s):
        return None
    energies = [pitch_energies(waveform, rate_hz, PITCHES_HZ, float(begin)) for begin in begins_s]
    return max(PITCHES_HZ, key=lambda name: sum(energy[name] for energy in energies))
