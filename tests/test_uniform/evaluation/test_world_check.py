"""The check of a world on generated clips: ceilings, chance level, and audio that is 80 ms late."""

import numpy as np
import pytest

from uniform.errors import InputError
from uniform.evaluation.world.check import check_clips
from uniform.evaluation.world.observe import observe
from uniform.evaluation.world.score import area_under_curve, best_lag, median_lag, score_clip
from uniform.spec import PAPER, TOY, Spec
from uniform.synthetic.worlds import WorldClip, make_clip


def _scores(world: str, clips: int, spec: Spec = TOY) -> dict[str, list[float]]:
    result: dict[str, list[float]] = {}
    for seed in range(clips):
        clip = make_clip(world, seed, spec)
        for name, value in score_clip(clip.truth, observe(world, clip.frames, clip.waveform, spec), spec).items():
            result.setdefault(name, []).append(value)
    return result


def _w1(count: int, spec: Spec) -> list[WorldClip]:
    return [make_clip("w1", seed, spec) for seed in range(count)]


@pytest.mark.parametrize(("spec", "clips"), [(TOY, 96), (PAPER, 8)], ids=["toy", "paper"])
def test_the_check_passes_on_generated_clips(spec: Spec, clips: int) -> None:
    report = check_clips(((clip.frames, clip.waveform, clip.truth) for clip in _w1(clips, spec)), spec)

    assert report.passes, report.failures
    assert report.colour == report.pitch == 1.0


def test_the_check_fails_when_the_audio_is_late() -> None:
    late = [
        (clip.frames, np.concatenate([np.zeros(1280, np.float32), clip.waveform[:-1280]]), clip.truth)
        for clip in _w1(12, TOY)
    ]

    report = check_clips(late, TOY)

    assert not report.passes
    assert any("audio F1 is 0.0" in failure for failure in report.failures)


def test_the_check_fails_when_the_videos_belong_to_other_clips() -> None:
    clips = _w1(12, TOY)
    exchanged = [
        (other.frames, clip.waveform, clip.truth) for clip, other in zip(clips, clips[1:] + clips[:1], strict=True)
    ]

    failures = check_clips(exchanged, TOY).failures

    assert any(failure.startswith("video") for failure in failures)
    assert any(failure.startswith("joint") for failure in failures)


def test_the_check_refuses_other_worlds_and_too_few_clips() -> None:
    clip = make_clip("w2", 0, TOY)
    with pytest.raises(InputError, match="w2"):
        check_clips([(clip.frames, clip.waveform, clip.truth)], TOY)
    with pytest.raises(InputError, match="3 clips"):
        check_clips(((clip.frames, clip.waveform, clip.truth) for clip in _w1(3, TOY)), TOY)


@pytest.mark.parametrize("world", ["w2", "w5", "w6", "w4"])
def test_other_ball_worlds_have_high_ceilings(world: str) -> None:
    scores = _scores(world, 24)

    for name in ("audio_f1", "video_f1", "joint_f1", "colour"):
        assert np.mean(scores[name]) >= 0.98, name


def test_each_of_two_balls_matches_its_own_sounds() -> None:
    scores = _scores("w2", 24)

    assert np.mean(scores["joint_f1"]) >= 0.98
    assert np.mean(scores["swapped_f1"]) <= 0.35


def test_audio_and_video_of_the_motor_follow_its_speed() -> None:
    scores = _scores("w3", 24)

    assert min(scores["audio_r"]) >= 0.98
    assert min(scores["video_r"]) >= 0.9
    assert np.mean(np.abs(scores["lag_frames"])) <= 0.5


def test_audio_levels_separate_ghosts_perfectly() -> None:
    scores = _scores("w4", 24)

    assert area_under_curve(scores["level_db"], [bool(value) for value in scores["sounding"]]) == 1.0


def test_delays_are_measured_within_twenty_milliseconds() -> None:
    scores = _scores("w6", 24)

    assert max(scores["lag_error_s"]) <= 0.005
    assert max(scores["joint_lag_error_s"]) <= 0.02


def test_knocks_from_outside_the_frame_do_not_match_the_balls() -> None:
    """World w5: all sounds together do not fit the ball; those of its pitch do."""
    clip = make_clip("w5", 2, TOY)
    observed = observe("w5", clip.frames, clip.waveform, TOY)
    pitch = next(ball.pitch for ball in clip.truth.balls if ball.pitch is not None)

    assert len(observed.sounds_s) > len(observed.sounds_of_pitch_s[pitch])


def test_a_silent_still_clip_scores_0() -> None:
    """Nothing to see agrees with nothing to hear, but that is no synchrony."""
    truth = make_clip("w1", 0, TOY).truth
    nothing = observe("w1", np.zeros((34, 64, 64, 3), np.uint8), np.zeros(TOY.samples, np.float32), TOY)

    scores = score_clip(truth, nothing, TOY)

    assert scores["joint_f1"] == scores["audio_f1"] == scores["video_f1"] == scores["law"] == scores["pitch"] == 0.0


def test_area_under_curve_equals_values_computed_by_hand() -> None:
    assert area_under_curve([1.0, 2.0, 3.0, 4.0], [False, True, False, True]) == 0.75
    assert area_under_curve([1.0, 1.0], [True, False]) == 0.5
    assert np.isnan(area_under_curve([1.0], [True]))


def test_lags_of_late_sounds_are_positive() -> None:
    wave = np.sin(np.arange(40) / 3.0)
    impacts = np.array([0.4, 1.0, 1.5])

    assert best_lag(wave[2:], wave[:-2]) == 2
    assert median_lag(impacts, impacts + 0.12) == pytest.approx(0.12)
    assert median_lag(impacts, np.empty(0)) is None
