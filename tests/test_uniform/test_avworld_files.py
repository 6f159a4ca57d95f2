"""A world written as files: they are what the wild holds, and the road keeps sound and picture together."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipelines.manifest import build_rows, read_manifest
from uniform.avworld.gate import gate
from uniform.avworld.observe import observe
from uniform.avworld.roads import from_files, made, through_codecs
from uniform.avworld.scene import Truth
from uniform.avworld.score import score_clip
from uniform.avworld.worlds import WORLDS
from uniform.avworld.write import choose_shot, write_world
from uniform.codecs.base import open_audio_codec, open_video_codec
from uniform.errors import InputError
from uniform.spec import PAPER, TOY, Spec


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small clips gain nothing from more threads, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bounce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("w1")
    write_world("w1", TOY, folder, train_clips=40, test_clips=8)
    return folder


def test_gate_a_holds_on_files(bounce: Path) -> None:
    report = gate(((clip.frames, clip.waveform, clip.truth) for clip in from_files(bounce, TOY)), TOY)

    assert report.clips == 48
    assert report.passes, report.failures
    assert report.colour == report.pitch == 1.0


def test_gate_a_holds_on_files_after_the_embedded_codecs(bounce: Path) -> None:
    codecs = open_video_codec("dct", TOY), open_audio_codec("dct", TOY)
    clips = islice(through_codecs(from_files(bounce, TOY), TOY, *codecs), 20)

    report = gate(((clip.frames, clip.waveform, clip.truth) for clip in clips), TOY)

    assert report.passes, report.failures
    assert report.colour == report.pitch == 1.0


def test_gate_a_holds_in_the_papers_geometry_on_files_and_after_the_embedded_codecs(tmp_path: Path) -> None:
    write_world("w1", PAPER, tmp_path, train_clips=0, test_clips=6)
    codecs = open_video_codec("dct", PAPER), open_audio_codec("dct", PAPER)
    read = list(from_files(tmp_path, PAPER))

    for clips in (read, list(through_codecs(read, PAPER, *codecs))):
        report = gate(((clip.frames, clip.waveform, clip.truth) for clip in clips), PAPER)
        assert min(report.audio, report.video, report.joint) >= 0.98
        assert max(report.late, report.late_joint) <= 0.05
        assert 0.1 <= report.shuffled <= 0.35  # six clips: chance itself swings


@pytest.mark.parametrize("world", ["w2", "w3", "w4", "w5", "w6"])
def test_every_world_survives_the_embedded_codecs(world: str) -> None:
    codecs = open_video_codec("dct", TOY), open_audio_codec("dct", TOY)
    scores: dict[str, list[float]] = {}
    for clip in through_codecs(made(world, range(8), TOY), TOY, *codecs):
        seen = observe(world, clip.frames, clip.waveform, TOY)
        for name, value in score_clip(clip.truth, seen, TOY).items():
            scores.setdefault(name, []).append(value)
    least = {"audio_f1": 0.98, "video_f1": 0.98, "joint_f1": 0.98, "colour": 1.0, "audio_r": 0.85, "video_r": 0.85}
    for name, bound in least.items():
        assert sum(scores.get(name, [1.0])) / len(scores.get(name, [1.0])) >= bound, name
    assert max(scores.get("lag_error_s", [0.0])) <= 0.02


def test_files_differ_in_container_size_rates_and_start() -> None:
    shots = [choose_shot("w1", seed, TOY) for seed in range(200)]

    assert {Path(shot.name).suffix for shot in shots} == {".mp4", ".mov", ".mkv", ".webm"}
    assert {shot.fps for shot in shots} == {25, 30, 50}
    assert {shot.rate_hz for shot in shots} == {16_000, 44_100, 48_000}
    assert {shot.start_ms for shot in shots} == {0, 400, 1000}
    assert {(shot.width_px, shot.height_px) for shot in shots} == {(64, 64), (96, 72), (128, 72), (128, 96)}


def test_manifest_and_listing_give_rows_with_truth(bounce: Path) -> None:
    rows = build_rows(read_manifest(bounce / "avworld_w1.toml"))

    assert [row.split for row in rows].count("test") == 8
    assert len({row.clip_id for row in rows}) == 48
    for row in rows:
        truth = Truth.from_json(row.extra["truth"])
        assert row.duration_ms == 2000
        assert row.caption == truth.caption
        assert str(truth.seed) == row.extra["seed"]


def test_train_and_test_share_no_scene(bounce: Path) -> None:
    lines = [json.loads(line) for line in (bounce / "listing.jsonl").read_text().splitlines()]
    seeds = {split: {line["seed"] for line in lines if line["split"] == split} for split in ("train", "test")}

    assert not seeds["train"] & seeds["test"]


def test_writing_twice_gives_the_same_bytes_and_keeps_what_is_there(bounce: Path, tmp_path: Path) -> None:
    write_world("w1", TOY, tmp_path, train_clips=6, test_clips=2)
    for path in tmp_path.rglob("w1_*"):
        assert path.read_bytes() == next(bounce.rglob(path.name)).read_bytes()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("w1_*")}

    write_world("w1", TOY, tmp_path, train_clips=7, test_clips=2)

    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(tmp_path.rglob("w1_*"))) == 9


@pytest.mark.parametrize("world", list(WORLDS))
def test_every_world_can_be_written_and_read(world: str, tmp_path: Path) -> None:
    write_world(world, TOY, tmp_path, train_clips=1, test_clips=1, seed=5)

    assert [clip.truth.world for clip in from_files(tmp_path, TOY)] == [world, world]


def test_a_spec_of_another_shape_and_rate_is_served(tmp_path: Path) -> None:
    wide = Spec(name="wide", height_px=64, width_px=128, duration_s=2, mel_bins=16, fps=16, chunk_frames=16)
    write_world("w1", wide, tmp_path, train_clips=6, test_clips=0)

    report = gate(((clip.frames, clip.waveform, clip.truth) for clip in from_files(tmp_path, wide)), wide)

    assert min(report.audio, report.video, report.joint) >= 0.95


def test_nothing_asked_for_and_too_much_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clip"):
        write_world("w1", TOY, tmp_path, train_clips=0, test_clips=0)
    with pytest.raises(InputError, match="1,000,000"):
        write_world("w1", TOY, tmp_path, train_clips=2_000_000, test_clips=0)


def test_a_folder_without_a_listing_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uniform world write"):
        list(from_files(tmp_path, TOY))
