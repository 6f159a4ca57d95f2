"""Judge a folder of samples against a world: per task, each score with its interval and with what chance would give.

A2V and V2A samples are judged against the truth of the clip whose sound or picture they were given; T2AV samples in
time by their own two streams, and in what they show by their caption.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.event_f1 import bootstrap
from uniform.evaluation.world.observe import Observation, observe
from uniform.evaluation.world.score import area_under_curve, score_audio, score_joint, score_video
from uniform.media.sandbox import MediaSandbox
from uniform.spec import Spec
from uniform.synthetic.scene import Truth
from uniform.synthetic.write import LISTING_NAME
from uniform.tasks import Task

PARTNERS = 4
"""Chance: each sample is judged as if it belonged to this many other clips."""
_OF_T2AV = ("joint_f1", "swapped_f1", "joint_r", "lag_frames", "joint_lag_error_s", "law", "colour", "pitch")
"""Scores that need no clip's times, for a caption tells none; and what a caption does tell."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A generated clip as the detectors see it, and what it should have been."""

    task: Task
    truth: Truth
    seen: Observation


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One score of many samples."""

    mean: float
    low: float
    """The 95% interval of the mean, by bootstrap over samples."""
    high: float
    chance: float
    """The same score with exchanged partners."""
    clips: int


def read_samples(folder: Path, world: Path, spec: Spec) -> list[Sample]:
    """The samples of a folder that `uniform sample` or the benchmark wrote, with the truth from `world`'s listing.

    Raises: InputError where there is no sample, or one belongs to no clip or caption of the world.
    """
    listing = world / LISTING_NAME
    if not listing.is_file():
        raise InputError(f"{listing} is missing; name the folder that `uniform world write` wrote")
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    by_file = {(Path(line["path"]).name, int(line["start_ms"])): Truth.from_json(line["truth"]) for line in lines}
    by_caption = {truth.caption: truth for truth in by_file.values()}
    facts = sorted(path for path in folder.glob("*.json") if path.with_suffix(".mp4").is_file())
    if not facts:
        raise InputError(f"{folder} holds no finished sample (NAME.mp4 with NAME.json)")
    samples = []
    with MediaSandbox() as sandbox:
        for path in facts:
            request = json.loads(path.read_bytes())["request"]
            task = Task(request["task"])
            truth = (
                by_caption.get(request["text"] or "")
                if task is Task.T2AV
                else by_file.get((Path(request["media"]).name, int(request["start_ms"])))
            )
            if truth is None:
                wanted = "caption" if task is Task.T2AV else "file and start"
                raise InputError(f"{path}: its {wanted} is not in {listing}; samples and world do not belong together")
            loaded = sandbox.load(path.with_suffix(".mp4"), spec)
            assert loaded.frames is not None
            assert loaded.waveform is not None
            seen = observe(truth.world, loaded.frames, loaded.waveform, spec)
            samples.append(Sample(task=task, truth=truth, seen=seen))
    return samples


def judge(samples: Sequence[Sample], spec: Spec) -> dict[Task, dict[str, Measure]]:
    """Every score of each task that the samples hold."""
    result: dict[Task, dict[str, Measure]] = {}
    for task in Task:
        chosen = [sample for sample in samples if sample.task is task]
        if chosen:
            result[task] = _judge_task(task, chosen, spec)
    return result


def as_json(judged: Mapping[Task, Mapping[str, Measure]]) -> dict[str, Any]:
    """JSON-ready."""
    return {
        str(task): {name: asdict(measure) for name, measure in measures.items()} for task, measures in judged.items()
    }


def _judge_task(task: Task, samples: Sequence[Sample], spec: Spec) -> dict[str, Measure]:
    own = [_scores(task, sample.truth, sample.seen, spec) for sample in samples]
    count = len(samples)
    strangers = [
        _scores(
            task,
            samples[(index + step) % count].truth,
            _with_sound_of(sample.seen, samples[(index + step) % count].seen) if task is Task.T2AV else sample.seen,
            spec,
        )
        for index, sample in enumerate(samples)
        for step in range(1, min(PARTNERS, count - 1) + 1)
    ]
    measures = {}
    for name in sorted({name for scores in own for name in scores} - {"level_db", "sounding"}):
        values = np.array([scores[name] for scores in own if name in scores])
        chance = [scores[name] for scores in strangers if name in scores]
        mean, low, high = bootstrap(values)
        measures[name] = Measure(
            mean=mean, low=low, high=high, chance=float(np.mean(chance)) if chance else float("nan"), clips=len(values)
        )
    marks = [bool(scores["sounding"]) for scores in own if "sounding" in scores]
    if len(set(marks)) == 2:
        area = area_under_curve([scores["level_db"] for scores in own], marks)
        measures["ghost_auc"] = Measure(mean=area, low=area, high=area, chance=0.5, clips=len(marks))
    return measures


def _scores(task: Task, truth: Truth, seen: Observation, spec: Spec) -> dict[str, float]:
    if task is Task.V2A:
        return score_audio(truth, seen, spec)
    if task is Task.A2V:
        return score_video(truth, seen, spec)
    scores = score_audio(truth, seen, spec) | score_video(truth, seen, spec) | score_joint(truth, seen, spec)
    return {name: scores[name] for name in (*_OF_T2AV, "level_db", "sounding") if name in scores}


def _with_sound_of(picture: Observation, sound: Observation) -> Observation:
    return replace(
        picture,
        sounds_s=sound.sounds_s,
        sounds_of_pitch_s=sound.sounds_of_pitch_s,
        pitch=sound.pitch,
        level_db=sound.level_db,
        loudness=sound.loudness,
    )
