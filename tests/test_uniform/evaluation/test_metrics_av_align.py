"""AV-Align's three formulas, on times by hand."""

import numpy as np
import pytest

from uniform.evaluation.audio_events import audio_events, band_levels
from uniform.evaluation.av_align import av_align_pr, av_align_v1, av_align_v2, motion, motion_peaks
from uniform.spec import TOY
from uniform.synthetic.worlds import make_clip


def test_four_onsets_at_one_peak() -> None:
    """The case that shows v1 to be unbounded: 4 / (4 + 1 - 4) = 4."""
    onsets, peaks = np.array([0.98, 0.99, 1.01, 1.02]), np.array([1.0])

    assert av_align_v1(onsets, peaks, 17.0) == 4.0
    assert av_align_v2(onsets, peaks, 17.0) == pytest.approx(1 / 4)
    assert av_align_pr(onsets, peaks, 17.0) == 1.0


def test_formulas_by_hand() -> None:
    onsets, peaks = np.array([0.5, 1.0, 1.5]), np.array([0.51, 1.2])

    assert av_align_v1(onsets, peaks, 17.0) == pytest.approx(1 / 4)
    assert av_align_v2(onsets, peaks, 17.0) == pytest.approx(1 / 4)
    p, r = 1 / 3, 1 / 2
    assert av_align_pr(onsets, peaks, 17.0) == pytest.approx(p * r / (p + r - p * r))


def test_one_frame_apart_does_not_match() -> None:
    assert av_align_v2(np.array([1.0]), np.array([1.0 + 1 / 16]), 16.0) == 0.0


def test_nothing_has_no_score_and_one_sided_events_score_zero() -> None:
    nothing, one = np.empty(0), np.array([1.0])

    for formula in (av_align_v1, av_align_v2, av_align_pr):
        assert formula(nothing, nothing, 17.0) is None
        assert formula(one, nothing, 17.0) == 0.0
        assert formula(nothing, one, 17.0) == 0.0


def test_motion_of_a_resting_picture_is_zero_and_has_no_peaks() -> None:
    rest = np.full((10, 4, 4, 3), 90, np.uint8)

    assert motion(rest).shape == (10,)
    assert not motion(rest).any()
    assert len(motion_peaks(motion(rest), 17.0)) == 0


def test_truth_scores_above_shuffled_pairs() -> None:
    clips = [make_clip("w1", seed, TOY) for seed in range(16)]
    onsets = [audio_events(band_levels(clip.waveform, TOY.rate_hz)) for clip in clips]
    peaks = [motion_peaks(motion(clip.frames), TOY.fps) for clip in clips]

    def mean(step: int) -> float:
        return float(np.mean([av_align_v2(onsets[i], peaks[(i + step) % 16], TOY.fps) for i in range(16)]))

    assert mean(0) > 1.3 * np.mean([mean(step) for step in (1, 2, 3)])
