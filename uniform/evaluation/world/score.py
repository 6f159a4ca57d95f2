"""Scores of one clip: audio and video against the truth, the caption and each other.

A score that does not apply to a clip is absent, never 0: a silent ghost ball has no audio F1.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.stats import rankdata

from uniform.evaluation.event_f1 import EventScore, event_f1, match_times
from uniform.evaluation.world.observe import DetectedBall, Observation
from uniform.spec import Spec
from uniform.synthetic.scene import PITCH_OF_COLOUR, Truth

Times = Sequence[float] | np.ndarray
"""Seconds, ascending."""
BORDER_S = 0.12
"""Events nearer to the start or end of a clip do not count: an impact needs two frames on both sides."""
_LONGEST_DELAY_S = 0.2
"""World w6: a sound later than this has no impact."""
_LONGEST_LAG_FRAMES = 4
_SMOOTH_FRAMES = 5
"""World w3: the speed changes below 1 Hz, so averaging over 0.3 s removes noise and keeps the curve."""


def compare_times(true_s: Times, found_s: Times, spec: Spec) -> EventScore:
    """Match events with a tolerance of one frame, without those near the borders."""
    inside = (BORDER_S, spec.duration_s - BORDER_S)
    return event_f1(np.asarray(true_s), np.asarray(found_s), 1 / spec.fps, inside)


def f1_of_times(true_s: Times, found_s: Times, spec: Spec) -> float:
    """Event F1 of `compare_times`; 0 without any event, since every clip of a world with balls has some."""
    score = compare_times(true_s, found_s, spec)
    return score.f1 if score.matched + score.missed + score.false else 0.0


def score_audio(truth: Truth, observed: Observation, spec: Spec) -> dict[str, float]:
    """Score the audio against the truth.

    Returns: some of audio_f1 (events), audio_count (found per true event), audio_offset_ms (median distance of matched
        events), pitch (1 correct, 0 wrong), audio_r (w3: correlation of loudness and speed), level_db and sounding
        (w4), lag_error_s (w6).
    """
    scores: dict[str, float] = {}
    sounding = [ball for ball in truth.balls if ball.pitch is not None]
    if truth.world == "w3":
        scores["audio_r"] = correlation(_true_speed(truth, spec), _smooth(observed.loudness))
    elif truth.world in ("w2", "w5"):
        scores["audio_f1"] = float(
            np.mean(
                [f1_of_times(ball.sounds_s, observed.sounds_of_pitch_s[ball.pitch or ""], spec) for ball in sounding]
            )
        )
    elif sounding:
        scores |= _timing("audio", sounding[0].sounds_s, observed.sounds_s, spec)
        scores["pitch"] = float(observed.pitch == sounding[0].pitch)
    if truth.world == "w4":
        scores |= {"level_db": observed.level_db, "sounding": float(bool(sounding))}
    if truth.world == "w6":
        lag = median_lag(np.array(truth.balls[0].impacts_s), observed.sounds_s)
        scores["lag_error_s"] = _LONGEST_DELAY_S if lag is None else abs(lag - truth.delay_s)
    return scores


def score_video(truth: Truth, observed: Observation, spec: Spec) -> dict[str, float]:
    """Score the video against the truth.

    Returns: some of video_f1 (events; a ball of a missing colour scores 0), video_count, video_offset_ms, colour (share
        of correct ones), video_r (w3: correlation of detected and true speed).
    """
    if truth.world == "w3":
        return {"video_r": correlation(_true_speed(truth, spec), _smooth(observed.speed_hz))}
    scores = {"colour": float(np.mean([ball.colour in _colours(observed) for ball in truth.balls]))}
    if len(truth.balls) == 1:
        scores |= _timing("video", truth.balls[0].impacts_s, observed.balls[0].impacts_s, spec)
    else:
        by_colour = {ball.colour: ball.impacts_s for ball in observed.balls}
        sounding = [ball for ball in truth.balls if ball.pitch is not None]
        scores["video_f1"] = float(
            np.mean(
                [
                    f1_of_times(ball.impacts_s, by_colour[ball.colour], spec) if ball.colour in by_colour else 0.0
                    for ball in sounding
                ]
            )
        )
    return scores


def score_joint(truth: Truth, observed: Observation, spec: Spec) -> dict[str, float]:
    """Score audio and video of one clip against each other; of the truth only world and caption are used.

    Returns: some of joint_f1 (events), law (the pitch is the colour's), swapped_f1 (two balls, sounds exchanged),
        joint_r and lag_frames (w3), joint_lag_error_s (w6).
    """
    if truth.world == "w3":
        speed, loud = _smooth(observed.speed_hz), _smooth(observed.loudness)
        return {"joint_r": correlation(speed, loud), "lag_frames": float(best_lag(speed, loud))}
    if truth.world in ("w2", "w5"):
        coloured = [ball for ball in observed.balls if ball.colour in PITCH_OF_COLOUR]
        if not coloured:
            return {"joint_f1": 0.0}
        audio_events_s = [observed.sounds_of_pitch_s[PITCH_OF_COLOUR[ball.colour]] for ball in coloured]
        scores = {"joint_f1": _mean_f1(coloured, audio_events_s, spec)}
        if truth.world == "w2" and len(coloured) == 2:
            scores["swapped_f1"] = _mean_f1(coloured, audio_events_s[::-1], spec)
        return scores
    if truth.balls[0].pitch is None:
        return {}
    scores = {
        "joint_f1": f1_of_times(observed.balls[0].impacts_s + truth.delay_s, observed.sounds_s, spec),
        "law": float(observed.pitch is not None and observed.pitch == PITCH_OF_COLOUR.get(observed.balls[0].colour)),
    }
    if truth.world == "w6":
        lag = median_lag(observed.balls[0].impacts_s, observed.sounds_s)
        scores["joint_lag_error_s"] = _LONGEST_DELAY_S if lag is None else abs(lag - truth.delay_s)
    return scores


def score_clip(truth: Truth, observed: Observation, spec: Spec) -> dict[str, float]:
    """All scores of a clip."""
    return score_audio(truth, observed, spec) | score_video(truth, observed, spec) | score_joint(truth, observed, spec)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r of two series (T,); 0 where one of them does not change."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 else 0.0


def best_lag(first: np.ndarray, second: np.ndarray) -> int:
    """Lag of `second` behind `first` with the highest correlation, in frames."""

    def at(lag: int) -> float:
        size = len(first) - abs(lag)
        return correlation(first[max(0, -lag) :][:size], second[max(0, lag) :][:size])

    return max(range(-_LONGEST_LAG_FRAMES, _LONGEST_LAG_FRAMES + 1), key=lambda lag: (at(lag), -abs(lag)))


def median_lag(impacts_s: np.ndarray, sounds_s: np.ndarray) -> float | None:
    """Median of sound minus impact over pairs up to 0.2 s apart, the sound not earlier; None without any pair."""
    middle = _LONGEST_DELAY_S / 2 - 0.03
    pairs = match_times(impacts_s + middle, sounds_s, _LONGEST_DELAY_S / 2)
    return float(np.median([sounds_s[j] - impacts_s[i] for i, j in pairs])) if pairs else None


def area_under_curve(levels: Sequence[float], positive: Sequence[bool]) -> float:
    """Probability that a positive has a higher level than a negative (w4). NaN where one kind is absent."""
    marks = np.asarray(positive, bool)
    yes, no = int(marks.sum()), int((~marks).sum())
    if not yes or not no:
        return float("nan")
    ranks = rankdata(levels)
    return float((ranks[marks].sum() - yes * (yes + 1) / 2) / (yes * no))


def _timing(name: str, true_s: Times, found_s: Times, spec: Spec) -> dict[str, float]:
    """F1 of one kind of events, detected per true event, and median offset of matched ones."""
    score = compare_times(true_s, found_s, spec)
    scores = {
        f"{name}_f1": f1_of_times(true_s, found_s, spec),
        f"{name}_count": (score.matched + score.false) / max(1, score.matched + score.missed),
    }
    if score.matched:
        scores[f"{name}_offset_ms"] = 1000 * float(np.median(np.abs(score.offsets_s)))
    return scores


def _mean_f1(balls: Sequence[DetectedBall], audio_events_s: Sequence[np.ndarray], spec: Spec) -> float:
    scores = [f1_of_times(ball.impacts_s, sounds, spec) for ball, sounds in zip(balls, audio_events_s, strict=True)]
    return float(np.mean(scores))


def _colours(observed: Observation) -> set[str]:
    return {ball.colour for ball in observed.balls}


def _true_speed(truth: Truth, spec: Spec) -> np.ndarray:
    clock_s = np.arange(len(truth.speed_hz)) * spec.duration_s / len(truth.speed_hz)
    speed: np.ndarray = np.interp(np.arange(spec.frames) / spec.fps, clock_s, np.array(truth.speed_hz))
    return _smooth(speed)


def _smooth(series: np.ndarray) -> np.ndarray:
    smooth: np.ndarray = uniform_filter1d(np.asarray(series, np.float64), _SMOOTH_FRAMES, mode="nearest")
    return smooth
