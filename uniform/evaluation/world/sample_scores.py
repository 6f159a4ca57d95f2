"""Score a folder of samples against a world: per task, each score with its interval and chance level.

A2V and V2A samples are scored against the truth of their conditioning clip; T2AV samples are scored in time by their
own audio and video, and in content by their caption.
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
"""Chance level: each sample is scored as if it belonged to this many other clips."""
_OF_T2AV = ("joint_f1", "swapped_f1", "joint_r", "lag_frames", "joint_lag_error_s", "law", "colour", "pitch")
"""Scores that need no times of a clip, since a caption names none."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A generated clip: detector results, and the truth to compare with."""

    task: Task
    truth: Truth
    observed: Observation


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One score of many samples."""

    mean: float
    low: float
    """The 95% interval of the mean, by bootstrap over samples."""
    high: float
    chance: float
    """Chance level: the same score with exchanged partners."""
    clips: int


def read_samples(folder: Path, world: Path, spec: Spec) -> list[Sample]:
    """Read the samples of a folder that `uniform sample` or the benchmark wrote, with the truth from `world`'s listing.

    Raises: InputError where there is no sample, or a sample has no clip or caption in the world.
    """
    listing = world / LISTING_NAME
    if not listing.is_file():
        raise InputError(f"{listing} is missing; name the folder that `uniform world write` wrote")
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    by_file = {(Path(line["path"]).name, int(line["start_ms"])): Truth.from_json(line["truth"]) for line in lines}
    by_caption = {truth.caption: truth for truth in by_file.values()}
    metadata_files = sorted(path for path in folder.glob("*.json") if path.with_suffix(".mp4").is_file())
    if not metadata_files:
        raise InputError(f"{folder} holds no finished sample (NAME.mp4 with NAME.json)")
    samples = []
    with MediaSandbox() as sandbox:
        for path in metadata_files:
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
            observed = observe(truth.world, loaded.frames, loaded.waveform, spec)
            samples.append(Sample(task=task, truth=truth, observed=observed))
    return samples


def score_samples(samples: Sequence[Sample], spec: Spec) -> dict[Task, dict[str, Measure]]:
    """All scores of each task among the samples."""
    result: dict[Task, dict[str, Measure]] = {}
    for task in Task:
        chosen = [sample for sample in samples if sample.task is task]
        if chosen:
            result[task] = _score_task(task, chosen, spec)
    return result


def as_json(scored: Mapping[Task, Mapping[str, Measure]]) -> dict[str, Any]:
    """The scores, JSON-ready."""
    return {
        str(task): {name: asdict(measure) for name, measure in measures.items()} for task, measures in scored.items()
    }


def _score_task(task: Task, samples: Sequence[Sample], spec: Spec) -> dict[str, Measure]:
    own = [_scores(task, sample.truth, sample.observed, spec) for sample in samples]
    count = len(samples)
    strangers = [
        _scores(
            task,
            samples[(index + step) % count].truth,
            _with_audio_of(sample.observed, samples[(index + step) % count].observed)
            if task is Task.T2AV
            else sample.observed,
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


def _scores(task: Task, truth: Truth, observed: Observation, spec: Spec) -> dict[str, float]:
    if task is Task.V2A:
        return score_audio(truth, observed, spec)
    if task is Task.A2V:
        return score_video(truth, observed, spec)
    scores = (
        score_audio(truth, observed, spec) | score_video(truth, observed, spec) | score_joint(truth, observed, spec)
    )
    return {name: scores[name] for name in (*_OF_T2AV, "level_db", "sounding") if name in scores}


def _with_audio_of(video: Observation, audio: Observation) -> Observation:
    return replace(
        video,
        sounds_s=audio.sounds_s,
        sounds_of_pitch_s=audio.sounds_of_pitch_s,
        pitch=audio.pitch,
        level_db=audio.level_db,
        loudness=audio.loudness,
    )
