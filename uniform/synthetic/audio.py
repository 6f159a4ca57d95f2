"""Render the audio of a scene: decaying tones at impacts, a hum that follows a speed, knocks, quiet room noise.

Every sound is a function of time, so that any sample rate and any start give the same sound.
"""

from collections.abc import Callable

import numpy as np

from uniform.synthetic.scene import CLOCK_HZ, LEAD_S, PITCHES_HZ, SPEED_HZ, TAIL_S, Scene

AMPLITUDE = 0.45
"""Peak of one tone; full scale is 1."""
DECAY_S = 0.07
"""Time in which a tone falls to 1/e."""
ATTACK_S = 0.004
"""Rise time of a sound; its start is the time of the event."""
_LENGTH_S = 0.8
"""A tone is cut where it has fallen by 99 dB."""
_OCTAVE_LEVEL = 0.2
_OCTAVE_BELOW_HZ = 7000.0
"""Tones have a second partial where it stays below this frequency."""
_KNOCK_HZ = (1310.0, 1370.0, 1450.0)
_KNOCK_DECAY_S = 0.03
_HUM_HZ = (200.0, 330.0)
"""World w3: pitch of the hum at rest, and its rise per turn per second."""
_HUM_PARTIALS = (1.0, 0.5, 0.25)
_HUM_LEVEL = (0.05, 0.45)
"""World w3: amplitude at the slowest and at the fastest speed."""
_ROOM_LEVEL = 0.003
"""Std of the room noise: -50 dB."""
_NOISE_HZ = 16_000
"""Noise samples per second, with linear interpolation between them."""

Wave = Callable[[np.ndarray], np.ndarray]
"""Time since the start of a sound in s -> its value."""


def render_audio(scene: Scene, *, rate_hz: int, samples: int, start_s: float = 0.0) -> np.ndarray:
    """Render the audio of `scene`, mono.

    Args:
        scene: the content of the clip.
        rate_hz: samples per second.
        samples: how many.
        start_s: time of the first sample; can be before the clip, down to -LEAD_S.
    Returns: float32 (samples,), in [-1, 1].
    """
    sound = np.zeros(samples)
    for ball in scene.balls:
        if ball.pitch is not None:
            tone = _tone(PITCHES_HZ[ball.pitch])
            for begin_s in ball.sounds_s:
                _add(sound, begin_s - start_s, rate_hz, tone)
    for begin_s in scene.knocks_s:
        _add(sound, begin_s - start_s, rate_hz, _knock)
    time_s = start_s + np.arange(samples) / rate_hz
    if scene.motor is not None:
        sound += _hum(np.array(scene.motor.speed_hz), time_s)
    if scene.room_noise:
        noise = np.random.default_rng(scene.seed).standard_normal(
            round((LEAD_S + scene.duration_s + TAIL_S) * _NOISE_HZ)
        )
        sound += _ROOM_LEVEL * np.interp((time_s + LEAD_S) * _NOISE_HZ, np.arange(len(noise)), noise)
    return np.clip(sound, -1.0, 1.0).astype(np.float32)


def _add(sound: np.ndarray, begin_s: float, rate_hz: int, wave: Wave) -> None:
    """Add a sound that starts at `begin_s` after the first sample; parts outside are cut."""
    first = max(0, int(np.ceil(begin_s * rate_hz)))
    last = min(len(sound), int((begin_s + _LENGTH_S) * rate_hz))
    if first < last:
        sound[first:last] += wave(np.arange(first, last) / rate_hz - begin_s)


def _envelope(time_s: np.ndarray, decay_s: float) -> np.ndarray:
    rise = 0.5 - 0.5 * np.cos(np.pi * np.minimum(time_s / ATTACK_S, 1.0))
    level: np.ndarray = rise * np.exp(-time_s / decay_s)
    return level


def _tone(frequency_hz: float) -> Wave:
    octave = _OCTAVE_LEVEL if 2 * frequency_hz < _OCTAVE_BELOW_HZ else 0.0

    def wave(time_s: np.ndarray) -> np.ndarray:
        turns: np.ndarray = 2 * np.pi * frequency_hz * time_s
        value: np.ndarray = np.sin(turns) + octave * np.sin(2 * turns)
        value *= AMPLITUDE * _envelope(time_s, DECAY_S)
        return value

    return wave


def _knock(time_s: np.ndarray) -> np.ndarray:
    """A short knock on wood, out of tune and between the pitches of the balls."""
    partials = sum(np.sin(2 * np.pi * frequency_hz * time_s) for frequency_hz in _KNOCK_HZ)
    knock: np.ndarray = AMPLITUDE / len(_KNOCK_HZ) * _envelope(time_s, _KNOCK_DECAY_S) * np.asarray(partials)
    return knock


def _hum(speed_hz: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """A tone with three partials; pitch and loudness are linear in the speed."""
    clock_s = np.arange(len(speed_hz)) / CLOCK_HZ - LEAD_S
    base_hz, rise_hz = _HUM_HZ
    turns = np.cumsum(base_hz + rise_hz * speed_hz) / CLOCK_HZ
    slowest, fastest = SPEED_HZ
    share = (np.interp(time_s, clock_s, speed_hz) - slowest) / (fastest - slowest)
    quiet, loud = _HUM_LEVEL
    phase = 2 * np.pi * np.interp(time_s, clock_s, turns)
    partials = sum(level * np.sin((number + 1) * phase) for number, level in enumerate(_HUM_PARTIALS))
    hum: np.ndarray = (quiet + (loud - quiet) * share) * np.asarray(partials) / sum(_HUM_PARTIALS)
    return hum
