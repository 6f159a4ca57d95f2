"""Scores of samples: perfect samples score as the truth, wrong ones do not, with the chance level beside them."""

import json
from pathlib import Path

import numpy as np
import pytest

from uniform.errors import InputError
from uniform.evaluation.world.sample_scores import as_json, read_samples, score_samples
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.scene import Truth
from uniform.synthetic.worlds import make_clip
from uniform.synthetic.write import write_world
from uniform.tasks import Task

CLIPS = 8


def _world(folder: Path, world: str = "w1") -> list[dict[str, str]]:
    write_world(world, TOY, folder, train_clips=0, test_clips=CLIPS)
    return [json.loads(line) for line in (folder / "listing.jsonl").read_text().splitlines()]


def _write_samples(folder: Path, world: Path, lines: list[dict[str, str]], task: Task, late_samples: int = 0) -> None:
    """The true clips as if they had been generated, their sound late by some samples."""
    for number, line in enumerate(lines):
        truth = Truth.from_json(line["truth"])
        clip = make_clip(truth.world, truth.seed, TOY)
        sound = np.concatenate([np.zeros(late_samples, np.float32), clip.waveform])[: TOY.samples]
        name = f"{task}-{number:04d}"
        write_clip(folder / f"{name}.mp4", clip.frames, sound, TOY.fps, TOY.rate_hz, audio_codec="aac")
        request = {
            "task": str(task),
            "text": line["caption"],
            "media": None if task is Task.T2AV else str(world / line["path"]),
            "start_ms": 0 if task is Task.T2AV else line["start_ms"],
        }
        (folder / f"{name}.json").write_text(json.dumps({"request": request}))


@pytest.fixture(scope="module")
def bounce(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A world, and perfect samples of all three tasks."""
    world, samples = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("samples")
    lines = _world(world)
    for task in Task:
        _write_samples(samples, world, lines, task)
    return world, samples


def test_perfect_samples_score_one_and_chance_does_not(bounce: tuple[Path, Path]) -> None:
    world, samples = bounce

    scored = score_samples(read_samples(samples, world, TOY), TOY)

    for task, name in ((Task.V2A, "audio_f1"), (Task.A2V, "video_f1"), (Task.T2AV, "joint_f1")):
        measure = scored[task][name]
        assert measure.mean >= 0.98
        assert measure.low <= measure.mean <= measure.high
        assert 0.1 <= measure.chance <= 0.35
        assert measure.clips == CLIPS
    assert scored[Task.V2A]["pitch"].mean == scored[Task.A2V]["colour"].mean == 1.0
    assert set(scored[Task.T2AV]) == {"joint_f1", "law", "colour", "pitch"}


def test_late_audio_scores_0_in_time_and_1_in_pitch(bounce: tuple[Path, Path], tmp_path: Path) -> None:
    world, _ = bounce
    lines = [json.loads(line) for line in (world / "listing.jsonl").read_text().splitlines()]
    for task in (Task.V2A, Task.T2AV):
        _write_samples(tmp_path, world, lines, task, late_samples=1440)

    scored = score_samples(read_samples(tmp_path, world, TOY), TOY)

    assert scored[Task.V2A]["audio_f1"].mean <= 0.05
    assert scored[Task.T2AV]["joint_f1"].mean <= 0.05
    assert scored[Task.V2A]["pitch"].mean == scored[Task.T2AV]["pitch"].mean == 1.0


def test_ghosts_are_scored_by_their_audio_levels(tmp_path: Path) -> None:
    world, samples = tmp_path / "world", tmp_path / "samples"
    samples.mkdir()
    _write_samples(samples, world, _world(world, "w4"), Task.V2A)

    scored = score_samples(read_samples(samples, world, TOY), TOY)

    assert scored[Task.V2A]["ghost_auc"].mean == 1.0
    assert json.loads(json.dumps(as_json(scored)))["v2a"]["ghost_auc"]["chance"] == 0.5


def test_samples_of_another_world_are_refused(bounce: tuple[Path, Path], tmp_path: Path) -> None:
    _, samples = bounce
    write_world("w1", TOY, tmp_path, train_clips=0, test_clips=2, seed=9)

    with pytest.raises(InputError, match="do not belong together"):
        read_samples(samples, tmp_path, TOY)


def test_empty_folders_are_refused(bounce: tuple[Path, Path], tmp_path: Path) -> None:
    world, samples = bounce
    with pytest.raises(InputError, match="no finished sample"):
        read_samples(tmp_path, world, TOY)
    with pytest.raises(InputError, match="uniform world write"):
        read_samples(samples, tmp_path, TOY)
