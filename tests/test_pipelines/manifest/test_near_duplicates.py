"""Copies are found under another name, scaled, re-encoded and shifted; different clips are not taken for copies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from cli.main import app
from pipelines.clip import Clip, Row
from pipelines.manifest.build import read_rows, write_parquet
from pipelines.manifest.near_duplicates import find_near_duplicates, read_hashes, to_leave_out
from pipelines.run.artifacts import write_table
from pipelines.stage import Context
from pipelines.stages import clip_media
from pipelines.stages.fingerprint_clip import Stage, perceptual_hash
from tests.support.paths import ROOT
from uniform.media.clip_file import write_clip
from uniform.spec import TOY

ROW = Row(
    clip_id="0" * 16,
    dataset="own",
    split="train",
    source_kind="local",
    source_id="a",
    source_uri="a.mp4",
    start_ms=0,
    duration_ms=2000,
)


def scene(seed: int, seconds: float = 4.0, size: int = 64) -> NDArray[np.uint8]:
    """A scene of smooth shapes that drift, different for each seed: (T, size, size, 3) at 17 fps."""
    random = np.random.default_rng(seed)
    waves = random.uniform(-1, 1, (6, 5)) * [0.25, 0.25, 2.0, np.pi, 1.0]
    y, x = np.mgrid[0:64:64j, 0:64:64j] if size == 64 else np.mgrid[0 : 64 : complex(size), 0 : 64 : complex(size)]
    time_s = np.arange(round(17 * seconds)) / 17
    total = sum(
        height * np.sin(along * x + down * y + speed * time_s[:, None, None] + phase)
        for along, down, speed, phase, height in waves
    )
    grey = np.clip(128 + 50 * np.asarray(total), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def hashes(frames: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(perceptual_hash(frames)), dtype=">u8").astype(np.uint64)


def rows_named(*names: str) -> list[Row]:
    return [replace(ROW, clip_id=f"{n:016x}", source_id=name) for n, name in enumerate(names)]


@pytest.mark.parametrize("change", ["scaled", "darker", "noisy", "shifted", "cropped"])
def test_a_changed_copy_is_found_among_strangers(change: str) -> None:
    original = scene(1)
    copy = {
        "scaled": scene(1, size=96),
        "darker": (original * 0.7).astype(np.uint8),
        "noisy": np.clip(original + np.random.default_rng(0).normal(0, 4, original.shape), 0, 255).astype(np.uint8),
        "shifted": scene(1, seconds=5.0)[17:],
        "cropped": original[:, 1:63, 1:63],
    }[change]
    strangers = [scene(seed) for seed in range(100, 140)]
    looks = np.stack([hashes(original), *(hashes(stranger) for stranger in strangers), hashes(copy)])

    found = find_near_duplicates(rows_named("a", *(f"s{n}" for n in range(40)), "b"), looks)

    assert [(pair.first.source_id, pair.second.source_id) for pair in found] == [("a", "b")]


def test_clips_of_one_source_and_clips_without_structure_are_no_pair() -> None:
    grey = np.full((34, 64, 64, 3), 90, dtype=np.uint8)
    looks = np.stack([hashes(scene(1)), hashes(scene(1)), hashes(grey), hashes(grey)])

    assert find_near_duplicates(rows_named("a", "a", "x", "y"), looks) == []
    assert perceptual_hash(grey) == "0" * 256


def test_a_crowd_of_equal_clips_does_not_take_for_ever() -> None:
    looks = np.repeat(hashes(scene(1))[None], 2_000, axis=0)

    assert find_near_duplicates(rows_named(*(f"s{n}" for n in range(2_000))), looks) == []


def test_the_clip_of_train_is_left_out() -> None:
    test, train, other = rows_named("a", "b", "c")
    test = replace(test, split="test")
    looks = np.stack([hashes(scene(1)), hashes(scene(1)), hashes(scene(2))])

    pairs = find_near_duplicates([test, train, other], looks)

    assert [pair.across_splits for pair in pairs] == [True]
    assert to_leave_out(pairs) == [train]


def test_the_stage_gives_looks_and_codes_damage(tmp_path: Path) -> None:
    sound = np.zeros(TOY.samples, dtype=np.float32)
    write_clip(tmp_path / "a.mp4", scene(1, seconds=2.0), sound, TOY.fps, TOY.rate_hz)
    clips = [Clip(ROW, {"mp4": (tmp_path / "a.mp4").read_bytes()}), Clip(ROW, {"mp4": b"\0" * 99})]

    good, bad = Stage().open(Context(spec=TOY))(iter(clips))

    differing = hashes(scene(1, seconds=2.0)) ^ hashes_of(good["look"])
    assert max(int(bits).bit_count() for bits in differing) <= 6
    assert bad.dropped is not None
    assert bad.dropped.code == "decode_corrupt"


def hashes_of(look: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(look), dtype=">u8").astype(np.uint64)


def test_the_command_names_pairs_and_writes_what_to_leave_out(tmp_path: Path) -> None:
    rows = [replace(row, split=split) for row, split in zip(rows_named("a", "b"), ("test", "train"), strict=True)]
    write_parquet(rows, tmp_path / "run" / "manifest.parquet")
    (tmp_path / "run" / "looks").mkdir()
    table = pa.table(
        {"clip_id": [row.clip_id for row in rows], "look": [perceptual_hash(scene(1)), perceptual_hash(scene(1))]}
    )
    pq.write_table(table, tmp_path / "run" / "looks" / "000000.parquet")

    arguments = ["manifest", "near-duplicates", str(tmp_path / "run"), "--out", str(tmp_path / "out.parquet")]
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    assert "1 pair among 2 clips, 1 across splits" in result.output
    assert [row.source_id for row in read_rows(tmp_path / "out.parquet")] == ["b"]
    assert CliRunner().invoke(app, ["manifest", "near-duplicates", str(tmp_path)]).exit_code == 1


def test_units_that_kept_nothing_are_read_too(tmp_path: Path) -> None:
    rows = rows_named("a", "b")
    write_parquet(rows, tmp_path / "manifest.parquet")
    clips = [Clip(row, {"look": perceptual_hash(scene(1))}) for row in rows]
    for unit, kept in enumerate(([], clips, [])):
        write_table(tmp_path / "looks" / f"{unit:06d}.parquet", ["look"], kept)

    read, looks = read_hashes([tmp_path])

    assert (read, looks.shape) == (rows, (2, 16))
    assert find_near_duplicates(read, looks)[0].share == 1.0


CLIPS = ROOT.parent / "shared" / "clips"


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips is not beside the repository")
def test_real_clips_in_other_containers_sizes_and_rates_are_found() -> None:
    names = [
        "r01_frog_cc0.mp4",
        "n17_orig_360p_30fps_44k.mp4",
        "r02_frog_cc0.webm",
        "n13_donkey.mp4",
        "n18_same_256_25fps_16k.mp4",
        "n21_car_21.5fps.mp4",
    ]
    rows = rows_named(*(name[:3] for name in names))
    clips = [Clip(row, {"source": str(CLIPS / name)}) for row, name in zip(rows, names, strict=True)]
    normalised = clip_media.Stage().open(Context(spec=TOY))(iter(clips))
    looks = [hashes_of(clip["look"]) for clip in Stage().open(Context(spec=TOY))(normalised)]

    pairs = find_near_duplicates(rows, np.stack(looks))

    assert {(pair.first.source_id, pair.second.source_id) for pair in pairs} == {("r01", "r02"), ("n17", "n18")}
