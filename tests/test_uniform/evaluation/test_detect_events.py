"""The detectors on audio and video with known events."""

import numpy as np
import pytest

from uniform.evaluation.audio_events import (
    AudioEventRule,
    audio_events,
    band_levels,
    loudness,
    pitch_energies,
)
from uniform.evaluation.video_events import nearest_colour, track_ball, video_events
from uniform.synthetic.audio import render_audio
from uniform.synthetic.scene import COLOURS, PITCHES_HZ, Ball, Scene
from uniform.synthetic.video import GROUND, RADIUS, View, render_video

RATE = 16_000


def _scene(*balls: Ball) -> Scene:
    return Scene(world="test", seed=0, duration_s=2.0, caption="", label="", balls=balls)


def _ball(colour: str = "red", pitch: str | None = "low", x: float = 0.0, impacts: tuple[float, ...] = ()) -> Ball:
    """Impacts as given, then one before and one after the clip."""
    return Ball(colour=colour, pitch=pitch, x=x, impacts_s=(-0.3, *impacts, 2.25))


@pytest.mark.parametrize("pitch", list(PITCHES_HZ))
def test_tones_are_found_within_two_milliseconds(pitch: str) -> None:
    impacts = (0.31, 0.77, 1.24, 1.63)
    audio = render_audio(_scene(_ball(pitch=pitch, impacts=impacts)), rate_hz=RATE, samples=2 * RATE)

    np.testing.assert_allclose(audio_events(band_levels(audio, RATE)), impacts, atol=0.002)
    energies = pitch_energies(audio, RATE, PITCHES_HZ, 0.31)
    assert max(energies, key=lambda name: energies[name]) == pitch


def test_silence_and_faint_noise_have_no_events() -> None:
    faint = 0.003 * np.random.default_rng(0).standard_normal(2 * RATE)

    assert len(audio_events(band_levels(np.zeros(2 * RATE, np.float32), RATE))) == 0
    assert len(audio_events(band_levels(faint.astype(np.float32), RATE))) == 0


def test_a_steady_tone_is_one_event_at_most() -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)

    assert len(audio_events(band_levels(tone.astype(np.float32), RATE))) <= 1


def test_bands_separate_simultaneous_tones() -> None:
    low, high = _ball(pitch="low", impacts=(0.5, 1.0)), _ball(pitch="high", impacts=(0.52, 1.4))
    audio = render_audio(_scene(low, high), rate_hz=RATE, samples=2 * RATE)

    for pitch, impacts in (("low", (0.5, 1.0)), ("high", (0.52, 1.4)), ("shrill", ())):
        band = (PITCHES_HZ[pitch] / 1.3, PITCHES_HZ[pitch] * 1.3)
        np.testing.assert_allclose(audio_events(band_levels(audio, RATE), band_hz=band), impacts, atol=0.004)


def test_events_nearer_than_the_refractory_time_count_once() -> None:
    audio = render_audio(_scene(_ball(impacts=(0.5, 0.58, 1.2))), rate_hz=RATE, samples=2 * RATE)

    assert len(audio_events(band_levels(audio, RATE), AudioEventRule(refractory_s=0.12))) == 2


def test_pitch_energies_outside_the_waveform_are_zero() -> None:
    assert set(pitch_energies(np.ones(RATE, np.float32), RATE, PITCHES_HZ, begin_s=5.0).values()) == {0.0}


def test_loudness_follows_the_waveform() -> None:
    audio = np.concatenate([np.zeros(RATE), 0.5 * np.ones(RATE)]).astype(np.float32)

    level = loudness(audio, RATE, 17.0, 34)

    np.testing.assert_allclose(level[:15], 0.0, atol=1e-9)
    np.testing.assert_allclose(level[19:], 0.5, atol=1e-6)


@pytest.mark.parametrize("colour", list(COLOURS))
@pytest.mark.parametrize("x", [-0.3, 0.0, 0.22])
def test_impacts_are_found_within_a_third_of_a_frame(colour: str, x: float) -> None:
    impacts = (0.35, 0.71, 1.4)
    frames = render_video(
        _scene(_ball(colour=colour, x=x, impacts=impacts)), View(height_px=64, width_px=64, fps=17, frames=34)
    )

    track = track_ball(frames)

    np.testing.assert_allclose(video_events(track, 17.0), impacts, atol=0.02)
    np.testing.assert_allclose(track.x, 0.5 + x, atol=0.02)
    assert track.y.max() <= GROUND - RADIUS + 0.02
    assert nearest_colour(track, COLOURS) == colour


def test_balls_in_the_two_halves_are_tracked_separately() -> None:
    scene = _scene(
        _ball(colour="blue", x=-0.25, impacts=(0.4, 1.0, 1.6)), _ball(colour="yellow", x=0.25, impacts=(0.75, 1.5))
    )
    frames = render_video(scene, View(height_px=64, width_px=64, fps=17, frames=34))

    for side, colour, impacts in (("left", "blue", (0.4, 1.0, 1.6)), ("right", "yellow", (0.75, 1.5))):
        track = track_ball(frames, side)
        assert nearest_colour(track, COLOURS) == colour
        np.testing.assert_allclose(video_events(track, 17.0), impacts, atol=0.02)


def test_an_empty_scene_and_a_resting_ball_have_no_impacts() -> None:
    view = View(height_px=64, width_px=64, fps=17, frames=34)
    resting = np.repeat(render_video(_scene(_ball(impacts=(0.7, 1.3))), view)[:1], 34, axis=0)

    assert len(video_events(track_ball(render_video(_scene(), view)), 17.0)) == 0
    assert len(video_events(track_ball(resting), 17.0)) == 0
    assert len(video_events(track_ball(np.zeros((34, 64, 64, 3), np.uint8)), 17.0)) == 0


def test_grey_has_no_colour() -> None:
    frames = render_video(
        _scene(_ball(colour="grey", impacts=(0.7,))), View(height_px=64, width_px=64, fps=17, frames=34)
    )

    assert nearest_colour(track_ball(frames), COLOURS) == "grey"
