"""Gate A: proof, before any training, that detectors and road can be trusted to judge timing.

The ceiling must be high (truth against the detectors), a sound that is 80 ms late must score nothing, and clips with
exchanged partners must lie where chance lies. It runs on clips as made, on files, and after a codec.
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
"""Each picture is also judged with the sounds of this many other clips."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Mean event F1 of w1 clips; `passes` says whether the clips can serve as a measure."""

    clips: int
    audio: float
    """Sound against the truth."""
    video: float
    """Picture against the truth."""
    joint: float
    """Sound against picture."""
    late: float
    """Sound 80 ms late, against the truth."""
    late_joint: float
    """Sound 80 ms late, against the picture."""
    shuffled: float
    """The picture of one clip against the sound of another: chance."""
    colour: float
    """Share of right colours."""
    pitch: float
    """Share of right pitches."""

    @property
    def failures(self) -> list[str]:
        """What is not as it must be, in words and numbers."""
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
        """True where every claim holds."""
        return not self.failures


def gate(clips: Iterable[tuple[np.ndarray, np.ndarray, Truth]], spec: Spec) -> GateReport:
    """Judge clips of world w1.

    Args:
        clips: (frames uint8 (T, H, W, 3), waveform float32 (S,), truth), at the rates of `spec`.
        spec: the clips' geometry.
    Raises: InputError for fewer than 6 clips or for another world.
    """
    late_samples = round(LATE_S * spec.rate_hz)
    truths: list[Truth] = []
    seen: list[Observation] = []
    late_s: list[np.ndarray] = []
    for frames, waveform, truth in clips:
        if truth.world != "w1":
            raise InputError(f"the gate judges clips of world w1; clip {truth.seed} is of {truth.world}")
        truths.append(truth)
        seen.append(observe("w1", frames, waveform, spec))
        late = np.concatenate([np.zeros(late_samples, np.float32), waveform[:-late_samples]])
        late_s.append(observe("w1", frames[:1], late, spec).sounds_s)
    if len(seen) <= _PARTNERS + 1:
        raise InputError(f"the gate was given {len(seen)} clips; it needs {_PARTNERS + 2} or more")
    scores = [score_clip(truth, clip, spec) for truth, clip in zip(truths, seen, strict=True)]
    true_s = [np.array(truth.balls[0].sounds_s) for truth in truths]
    return GateReport(
        clips=len(seen),
        audio=_mean(score["audio_f1"] for score in scores),
        video=_mean(score["video_f1"] for score in scores),
        joint=_mean(score["joint_f1"] for score in scores),
        late=_mean(f1_of_times(true, late, spec) for true, late in zip(true_s, late_s, strict=True)),
        late_joint=_mean(
            f1_of_times(clip.balls[0].impacts_s, late, spec) for clip, late in zip(seen, late_s, strict=True)
        ),
        shuffled=_mean(
            f1_of_times(clip.balls[0].impacts_s, seen[(index + step) % len(seen)].sounds_s, spec)
            for index, clip in enumerate(seen)
            for step in range(1, _PARTNERS + 1)
        ),
        colour=_mean(score["colour"] for score in scores),
        pitch=_mean(score["pitch"] for score in scores),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
