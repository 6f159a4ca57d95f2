"""Check, before any training, that detectors, media files and codecs keep the timing of events.

The ceiling must be high (detectors against truth), audio that is 80 ms late must score near 0, and clips with exchanged
partners must score at the chance level. It runs on generated clips, on files, and after a codec.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.world.observe import Observation, observe
from uniform.evaluation.world.score import f1_of_times, score_clip
from uniform.spec import Spec
from uniform.synthetic.scene import Truth

CEILING_LEAST = 0.98
LATE_S = 0.08
LATE_MOST = 0.05
CHANCE_RANGE = (0.15, 0.30)
_PARTNERS = 4
"""Number of other clips whose audio is paired with the video of each clip."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Mean event F1 of w1 clips; `passes` is True where the clips can be used as a measure."""

    clips: int
    audio: float
    """Audio against truth."""
    video: float
    """Video against truth."""
    joint: float
    """Audio against video."""
    late: float
    """Audio 80 ms late, against truth."""
    late_joint: float
    """Audio 80 ms late, against video."""
    shuffled: float
    """Video of one clip against audio of another: the chance level."""
    colour: float
    """Share of correct colours."""
    pitch: float
    """Share of correct pitches."""

    @property
    def failures(self) -> list[str]:
        """One message per bound that is not met."""
        low, high = CHANCE_RANGE
        claims = [
            *((name, getattr(self, name), ">=", CEILING_LEAST) for name in ("audio", "video", "joint")),
            *((name, getattr(self, name), "<=", LATE_MOST) for name in ("late", "late_joint")),
            ("shuffled", self.shuffled, ">=", low),
            ("shuffled", self.shuffled, "<=", high),
        ]
        return [
            f"{name} F1 is {value:.3f}; it must be {sign} {bound}"
            for name, value, sign, bound in claims
            if not (value >= bound if sign == ">=" else value <= bound)
        ]

    @property
    def passes(self) -> bool:
        """True where all bounds are met."""
        return not self.failures


def check_clips(clips: Iterable[tuple[np.ndarray, np.ndarray, Truth]], spec: Spec) -> CheckReport:
    """Check clips of world w1.

    Args:
        clips: (frames uint8 (T, H, W, 3), waveform float32 (S,), truth), at the rates of `spec`.
        spec: the clips' geometry.
    Raises: InputError for fewer than 6 clips or for another world.
    """
    late_samples = round(LATE_S * spec.rate_hz)
    truths: list[Truth] = []
    observed: list[Observation] = []
    late_s: list[np.ndarray] = []
    for frames, waveform, truth in clips:
        if truth.world != "w1":
            raise InputError(f"the check needs clips of world w1; clip {truth.seed} is of {truth.world}")
        truths.append(truth)
        observed.append(observe("w1", frames, waveform, spec))
        late = np.concatenate([np.zeros(late_samples, np.float32), waveform[:-late_samples]])
        late_s.append(observe("w1", frames[:1], late, spec).sounds_s)
    if len(observed) <= _PARTNERS + 1:
        raise InputError(f"the check got {len(observed)} clips; it needs {_PARTNERS + 2} or more")
    scores = [score_clip(truth, clip, spec) for truth, clip in zip(truths, observed, strict=True)]
    true_s = [np.array(truth.balls[0].sounds_s) for truth in truths]
    return CheckReport(
        clips=len(observed),
        audio=_mean(score["audio_f1"] for score in scores),
        video=_mean(score["video_f1"] for score in scores),
        joint=_mean(score["joint_f1"] for score in scores),
        late=_mean(f1_of_times(true, late, spec) for true, late in zip(true_s, late_s, strict=True)),
        late_joint=_mean(
            f1_of_times(clip.balls[0].impacts_s, late, spec) for clip, late in zip(observed, late_s, strict=True)
        ),
        shuffled=_mean(
            f1_of_times(clip.balls[0].impacts_s, observed[(index + step) % len(observed)].sounds_s, spec)
            for index, clip in enumerate(observed)
            for step in range(1, _PARTNERS + 1)
        ),
        colour=_mean(score["colour"] for score in scores),
        pitch=_mean(score["pitch"] for score in scores),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
