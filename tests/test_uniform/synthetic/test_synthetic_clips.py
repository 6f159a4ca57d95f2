"""The synthetic world: clips are pure functions of their seed, and their truth is exact."""

import itertools

import numpy as np
import pytest

from uniform.errors import ConfigError
from uniform.spec import PAPER, TOY
from uniform.synthetic.audio import render_audio
from uniform.synthetic.scene import FLIGHT_S, PITCH_OF_COLOUR, Truth
from uniform.synthetic.video import GROUND, RADIUS, REACH, View, height_of, render_video
from uniform.synthetic.worlds import WORLDS, draw_scene, make_clip


@pytest.mark.parametrize("world", list(WORLDS))
def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(world: str) -> None:
    first, again, other = (make_clip(world, seed, TOY) for seed in (5, 5, 6))

    assert first.frames.tobytes() == again.frames.tobytes()
    assert first.waveform.tobytes() == again.waveform.tobytes()
    assert first.truth == again.truth
    assert first.frames.tobytes() != other.frames.tobytes()
    assert first.waveform.tobytes() != other.waveform.tobytes()


@pytest.mark.parametrize("world", list(WORLDS))
def test_clip_has_the_shape_of_its_spec(world: str) -> None:
    clip = make_clip(world, 1, TOY)

    assert (clip.frames.shape, clip.frames.dtype) == ((34, 64, 64, 3), np.uint8)
    assert (clip.waveform.shape, clip.waveform.dtype) == ((32_000,), np.float32)
    assert np.abs(clip.waveform).max() <= 1.0


def test_paper_geometry_has_the_papers_shape() -> None:
    clip = make_clip("w1", 1, PAPER)

    assert clip.frames.shape == (68, 256, 256, 3)
    assert clip.waveform.shape == (64_000,)


@pytest.mark.parametrize("world", list(WORLDS))
def test_truth_is_equal_after_json(world: str) -> None:
    truth = make_clip(world, 3, TOY).truth

    assert Truth.from_json(truth.to_json()) == truth


def test_worlds_do_not_share_their_draws() -> None:
    impacts = [draw_scene(world, 0, 2.0).balls[0].impacts_s for world in ("w1", "w4", "w6")]

    assert len(set(impacts)) == 3


def test_an_unknown_world_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"'w9'.*w1, w2"):
        make_clip("w9", 0, TOY)


def test_flights_are_aperiodic_and_within_their_range() -> None:
    flights = np.concatenate([np.diff(draw_scene("w1", seed, 4.0).balls[0].impacts_s) for seed in range(60)])
    shortest, longest = FLIGHT_S

    assert flights.min() >= shortest
    assert flights.max() <= longest
    share, _ = np.histogram(flights, bins=5, range=FLIGHT_S, density=True)
    np.testing.assert_allclose(share * (longest - shortest), 1.0, atol=0.25)


def test_ball_touches_the_floor_at_its_impacts_and_nowhere_else() -> None:
    impacts = np.array(draw_scene("w1", 8, 2.0).balls[0].impacts_s)
    times = np.linspace(0.0, 2.0, 4001)

    height = height_of(impacts, times)

    np.testing.assert_allclose(height_of(impacts, impacts[1:-1]), 0.0, atol=1e-9)
    far = np.abs(times[:, None] - impacts).min(axis=1) > 0.01
    assert height[far].min() > 0.0
    assert height.max() <= REACH + 1e-9
    assert GROUND - RADIUS - REACH - RADIUS > 0.03  # the highest ball is inside the picture


def test_colour_determines_the_pitch_in_every_world_with_balls() -> None:
    for world, seed in itertools.product(("w1", "w2", "w4", "w5", "w6"), range(20)):
        for ball in make_clip(world, seed, TOY).truth.balls:
            assert ball.pitch in (None, PITCH_OF_COLOUR.get(ball.colour))


def test_captions_name_what_video_and_audio_show() -> None:
    for world in ("w1", "w2", "w4", "w5", "w6"):
        for seed in range(10):
            scene = draw_scene(world, seed, 2.0)
            for ball in scene.balls:
                assert ball.colour in scene.caption
                assert ball.pitch is None or ball.pitch in scene.caption


def test_every_class_is_drawn_about_equally_often() -> None:
    colours = [draw_scene("w1", seed, 2.0).balls[0].colour for seed in range(400)]
    ghosts = [draw_scene("w4", seed, 2.0).balls[0].pitch is None for seed in range(400)]

    assert all(70 <= colours.count(colour) <= 130 for colour in PITCH_OF_COLOUR)
    assert 160 <= sum(ghosts) <= 240


def test_a_longer_recording_holds_the_same_clip() -> None:
    """A source file may begin before the clip: cut at the right time, it is the clip."""
    scene = draw_scene("w1", 4, 2.0)
    early = View(height_px=64, width_px=64, fps=17.0, frames=17 + TOY.frames, start_s=-1.0)

    frames = render_video(scene, early)[17:]
    sound = render_audio(scene, rate_hz=16_000, samples=48_000, start_s=-1.0)[16_000:]

    np.testing.assert_array_equal(frames, render_video(scene, View.of(TOY)))
    np.testing.assert_allclose(sound, render_audio(scene, rate_hz=16_000, samples=32_000), atol=1e-6)


def test_a_wider_view_has_the_clip_in_its_middle() -> None:
    scene = draw_scene("w2", 4, 2.0)
    wide = View(height_px=64, width_px=96, fps=17.0, frames=34)

    np.testing.assert_array_equal(render_video(scene, wide)[:, :, 16:80], render_video(scene, View.of(TOY)))


def test_ghost_and_glass_look_the_same() -> None:
    """Only the text distinguishes them, so the video must not depend on the audio."""
    from dataclasses import replace

    scene = next(scene for scene in (draw_scene("w4", seed, 2.0) for seed in range(20)) if scene.balls[0].pitch)
    ghost = replace(scene, balls=(replace(scene.balls[0], pitch=None),))

    np.testing.assert_array_equal(render_video(scene, View.of(TOY)), render_video(ghost, View.of(TOY)))
