"""The loader: the same global batches on any number of processes, from anywhere, and nothing wrong gets through."""

import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import webdataset as wds

from tests.support.shard_folder import change_card, read_index_rows, write_index, write_shard_folder
from uniform.errors import ConfigError, ShardError, SpecMismatchError
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Batch, Loader, LoaderConfig
from uniform.spec import PAPER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard_folder(tmp_path / "shards", clips=20, unit_clips=7, captions=("a", "b"))
    return tmp_path / "shards"


def make(folder: Path, *, rank: int = 0, processes: int = 1, micro_batches: int = 1, **options: object) -> Loader:
    config = LoaderConfig(**{"global_batch": 8, **options})  # type: ignore[arg-type]
    mixture = Mixture([SourceConfig(folder=folder)], seed=5)
    return Loader(mixture, config, rank=rank, processes=processes, micro_batches=micro_batches)


def read(loader: Loader, steps: range) -> list[Batch]:
    return [loader.read(step)[0] for step in steps]


def same(one: Batch, two: Batch) -> bool:
    tensors = [(a, b) for a, b in zip((*one.clean, one.text), (*two.clean, two.text), strict=True)]
    return one.clip_ids == two.clip_ids and all(torch.equal(a, b) for a, b in tensors)


def test_batches_hold_the_normalised_latents_of_their_clips(folder: Path) -> None:
    (batch,) = make(folder).read(3)
    samples = {
        sample["__key__"]: sample
        for path in sorted(folder.glob("latents-*.tar"))
        for sample in wds.WebDataset(str(path), shardshuffle=False).decode()
    }

    shift = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1, 1)
    scale = torch.tensor([1.0, 1.25, 1.5, 1.75]).reshape(4, 1, 1, 1)
    for row, clip_id in enumerate(batch.clip_ids):
        raw = torch.from_numpy(samples[clip_id]["video.npy"]).float()
        assert torch.allclose(batch.clean.video[row], (raw - shift) / scale, atol=1e-6)
    assert batch.clean.audio.dtype == torch.float32
    assert batch.clean.audio.shape == (8, 8, 50, 4)
    assert batch.positions.tolist() == list(range(24, 32))


def test_texts_are_padded_to_the_longest_of_the_batch_with_zeros(folder: Path) -> None:
    (batch,) = make(folder).read(0)

    lengths = batch.text_mask.sum(dim=1)
    assert batch.text.shape == (8, int(lengths.max()), 64)
    assert lengths.min() >= 1
    assert torch.equal(batch.text.abs().sum(-1) > 0, batch.text_mask)


def test_texts_longer_than_the_limit_are_cut_and_said_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (batch,) = make(folder, pad_text_to=3).read(0)

    assert batch.text.shape == (8, 3, 64)
    assert "cut to data.pad_text_to = 3" in caplog.text


def test_processes_and_micro_batches_together_read_the_global_batch_of_one(folder: Path) -> None:
    (whole,) = make(folder).read(11)
    for processes, micro_batches in ((2, 1), (4, 2), (1, 4), (8, 1)):
        parts = [
            batch
            for rank in range(processes)
            for batch in make(folder, rank=rank, processes=processes, micro_batches=micro_batches).read(11)
        ]
        assert [clip for part in parts for clip in part.clip_ids] == whole.clip_ids
        assert torch.equal(torch.cat([part.clean.video for part in parts]), whole.clean.video)
        assert np.array_equal(np.concatenate([part.positions for part in parts]), whole.positions)


@pytest.mark.parametrize("residency", ["ram", "gpu"])
def test_residency_does_not_change_a_batch(folder: Path, residency: str) -> None:
    disk, resident = make(folder), make(folder, residency=residency)

    for step in (0, 4, 1000):
        assert same(disk.read(step)[0], resident.read(step)[0])


def test_the_stream_gives_what_read_gives_from_any_step_on(folder: Path) -> None:
    ahead, direct = make(folder, read_ahead=3), make(folder, read_ahead=0)

    streamed = [batches[0] for batches in ahead.stream(5, 12)]
    assert len(streamed) == 7
    for step, batch in zip(range(5, 12), streamed, strict=True):
        assert same(batch, direct.read(step)[0])
    assert [batches[0].clip_ids for batches in direct.stream(5, 12)] == [batch.clip_ids for batch in streamed]


def test_a_stream_that_is_left_early_leaves_no_thread(folder: Path) -> None:
    stream = make(folder).stream(0)
    next(stream)
    stream.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "latents-read-ahead"]


def test_every_clip_is_seen_once_per_epoch(folder: Path) -> None:
    loader = make(folder, global_batch=5)

    for epoch in range(3):
        seen = [clip for step in range(4 * epoch, 4 * epoch + 4) for clip in loader.clip_ids(step)]
        assert len(set(seen)) == 20


def test_planned_ids_are_the_ids_of_the_batch(folder: Path) -> None:
    loader = make(folder)

    assert loader.clip_ids(9) == loader.read(9)[0].clip_ids


def test_a_clip_without_text_is_marked(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path, clips=8, without_text=(5,))
    mixture = Mixture([SourceConfig(folder=tmp_path, missing_text="drop")], seed=0)
    (batch,) = Loader(mixture, LoaderConfig(global_batch=8)).read(0)

    assert [clip for clip, has in zip(batch.clip_ids, batch.has_text.tolist(), strict=True) if not has] == [ids[5]]
    assert bool(batch.text_mask.any(dim=1).all())


def test_a_global_batch_that_cannot_be_split_names_one_that_can(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"global_batch is 8; 3 processes .* multiple of 3: 6 would do"):
        make(folder, processes=3)


def test_fewer_clips_than_a_global_batch_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="global_batch is 21, but the sources have 20 clips"):
        make(folder, global_batch=21)


def flip(folder: Path, member: str, row: int) -> str:
    place = read_index_rows(folder)[row]
    path = folder / place[member]["shard"]
    content = bytearray(path.read_bytes())
    content[place[member]["offset"] + 300] ^= 4
    path.write_bytes(bytes(content))
    return str(place["clip_id"])


def test_a_damaged_member_stops_the_run_and_is_named(folder: Path) -> None:
    clip = flip(folder, "video", 6)
    loader = make(folder)

    with pytest.raises(ShardError, match=f"the video of clip {clip} at byte .* is damaged"):
        for _ in loader.stream(0, 5):
            pass


def test_damage_within_the_tolerance_is_replaced_by_the_neighbour_and_counted(folder: Path) -> None:
    sound = [make(folder).read(step)[0] for step in range(5)]
    clip = flip(folder, "audio", 6)
    neighbour = read_index_rows(folder)[7]["clip_id"]
    loader = make(folder, max_corrupt=1)

    for step in range(5):
        (batch,) = loader.read(step)
        assert batch.clip_ids == [neighbour if name == clip else name for name in sound[step].clip_ids]
    assert list(loader.corrupt) == [clip]


def test_damage_beyond_the_tolerance_names_every_clip(folder: Path) -> None:
    clips = [flip(folder, "video", row) for row in (3, 15)]

    with pytest.raises(ShardError, match=r"2 damaged clips, data\.max_corrupt allows 1") as caught:
        read(make(folder, max_corrupt=1), range(5))
    assert all(clip in str(caught.value) for clip in clips)


def test_a_folder_of_nothing_but_damage_ends_the_run(folder: Path) -> None:
    clips = {flip(folder, "video", row) for row in range(len(read_index_rows(folder)))}

    with pytest.raises(ShardError, match=f"all of its {len(clips)} clips are damaged"):
        make(folder, max_corrupt=len(clips)).read(0)


def test_without_verification_damage_passes(folder: Path) -> None:
    flip(folder, "video", 6)

    for step in range(5):
        make(folder, verify="never").read(step)


def test_a_shard_of_another_spec_than_its_card_is_refused(tmp_path: Path) -> None:
    write_shard_folder(tmp_path, clips=8, captions=("a",))
    change_card(tmp_path, spec=PAPER.as_dict())

    with pytest.raises(SpecMismatchError, match=r"float16 \(4, 10, 8, 8\); spec 'paper' .* \(4, 20, 32, 32\)"):
        make(tmp_path).read(0)


def test_an_offset_that_points_at_another_clip_is_found_by_its_checksum(folder: Path) -> None:
    rows = read_index_rows(folder)
    rows[0]["video"]["offset"] = rows[1]["video"]["offset"]
    write_index(folder, rows)

    with pytest.raises(ShardError, match=f"the video of clip {rows[0]['clip_id']} at byte .* is damaged"):
        read(make(folder), range(5))


def test_a_shard_that_is_cut_during_the_run_ends_it_with_its_name(folder: Path) -> None:
    loader = make(folder)
    for step in range(3):
        loader.read(step)
    path = folder / "latents-000001.tar"
    with path.open("r+b") as file:
        file.truncate(2000)

    with pytest.raises(ShardError, match=r"latents-000001\.tar: had \d+ bytes when the run began, has 2000 now"):
        read(loader, range(3, 8))


def test_a_shard_that_is_removed_during_the_run_does_not_disturb_it(folder: Path) -> None:
    loader = make(folder)
    before = [loader.read(step)[0] for step in range(3)]
    (folder / "latents-000001.tar").unlink()

    assert all(same(loader.read(step)[0], before[step]) for step in range(3))


def test_a_shard_that_is_removed_before_it_is_first_read_ends_the_run_with_its_name(folder: Path) -> None:
    loader = make(folder)
    (folder / "latents-000001.tar").unlink()

    with pytest.raises(ShardError, match=r"latents-000001\.tar: cannot be read .*Copy the shard again"):
        read(loader, range(5))


@pytest.mark.parametrize("verify", ["never", "first"])
def test_a_text_shard_that_is_cut_during_the_run_ends_it_with_its_name(
    folder: Path, verify: Literal["never", "first"]
) -> None:
    loader = make(folder, verify=verify)
    for step in range(3):
        loader.read(step)
    for path in folder.glob("text-*.tar"):
        with path.open("r+b") as file:
            file.truncate(512)

    with pytest.raises(ShardError, match=r"text-\w+-00000\d\.tar: had \d+ bytes when the run began, has 512 now"):
        read(loader, range(3, 8))
