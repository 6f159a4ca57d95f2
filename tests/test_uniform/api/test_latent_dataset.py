"""`LatentDataset` and `LatentStream`: the arrays of the shards, through torch's DataLoader, on disk and remote."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler

import uniform
from tests.support.remote_folder import Store
from tests.support.shard_folder import write_shard_folder
from uniform.api.latent_dataset import LatentDataset
from uniform.errors import ConfigError, RemoteError, ShardError
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.spec import TOY

CLIPS = 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "shards"
    write_shard_folder(folder, clips=CLIPS, unit_clips=5, splits={"train": 18, "test": 6}, captions=("a", "b"))
    return folder


def _by_id(batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: batch["video"][row] for batch in batches for row, name in enumerate(batch["clip_id"])}


def test_a_clip_has_the_arrays_that_the_training_loader_gives(shards: Path) -> None:
    dataset = LatentDataset(shards, captions="a")
    mixture = Mixture([SourceConfig(folder=shards, captions=("a",))], seed=0)
    batch = Loader(mixture, LoaderConfig(global_batch=CLIPS)).read(0)[0]
    row = {name: number for number, name in enumerate(dataset.clip_ids)}

    assert len(dataset) == CLIPS
    assert dataset.text_tokens == int(batch.text_mask.sum(dim=1).max())
    for slot, name in enumerate(batch.clip_ids):
        clip = dataset[row[name]]
        assert clip["clip_id"] == name
        np.testing.assert_array_equal(clip["video"], batch.clean.video[slot].numpy())
        np.testing.assert_array_equal(clip["audio"], batch.clean.audio[slot].numpy())
        np.testing.assert_array_equal(clip["text"], batch.text[slot].numpy())
        np.testing.assert_array_equal(clip["text_mask"], batch.text_mask[slot].numpy())


def test_a_split_and_a_length_of_text_are_kept_to_and_raw_latents_are_the_stored_ones(shards: Path) -> None:
    dataset = LatentDataset(shards, split="test", text_tokens=3, normalise=False)

    assert len(dataset) == 6
    assert dataset[0]["text"].shape == (3, 64)
    assert (dataset[0]["video"].dtype, dataset[0]["video"].shape) == (np.dtype(np.float16), TOY.video_latent)
    scaled = LatentDataset(shards, split="test")[0]["video"]
    shift, scale = (np.reshape(values, (-1, 1, 1, 1)) for values in ([0.1, 0.2, 0.3, 0.4], [1.0, 1.25, 1.5, 1.75]))
    np.testing.assert_allclose(scaled, (dataset[0]["video"].astype(np.float32) - shift) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dataset[-1]["video"], dataset[5]["video"])
    with pytest.raises(IndexError, match="6 clips"):
        dataset[6]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_gives_every_clip_once_with_any_number_of_workers(shards: Path, workers: int) -> None:
    dataset = LatentDataset(shards)
    plain = DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers)
    whole = DataLoader(
        dataset, sampler=BatchSampler(RandomSampler(dataset), 5, drop_last=False), batch_size=None, num_workers=workers
    )

    wanted = {name: dataset[row]["video"] for row, name in enumerate(dataset.clip_ids)}
    ours = DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers, collate_fn=dataset.collate)
    for loader in (plain, whole, ours):
        found = _by_id(iter(loader))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], torch.from_numpy(array)) for name, array in wanted.items())


def test_a_weighted_sampler_and_worker_processes_that_start_afresh_work(shards: Path) -> None:
    dataset = LatentDataset(shards)
    only = WeightedRandomSampler([float(row == 3) for row in range(CLIPS)], 4)
    loader = DataLoader(dataset, batch_size=2, sampler=only, num_workers=1, multiprocessing_context="spawn")

    assert [batch["clip_id"] for batch in loader] == [[dataset.clip_ids[3]] * 2] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_every_clip_of_the_split_once_with_the_same_arrays(shards: Path, workers: int) -> None:
    dataset = LatentDataset(shards, split="train")
    stream = dataset.stream(shuffle_clips=8, seed=1)
    order = [name for batch in DataLoader(stream, batch_size=4, num_workers=workers) for name in batch["clip_id"]]

    assert sorted(order) == sorted(dataset.clip_ids)
    assert order != dataset.clip_ids
    row = {name: number for number, name in enumerate(dataset.clip_ids)}
    seen = 0
    for clip in stream:
        for name, array in clip.items():
            np.testing.assert_array_equal(array, dataset[row[clip["clip_id"]]][name])
        seen += 1
    assert seen == 18


def test_the_order_of_a_stream_follows_from_seed_and_epoch(shards: Path) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        stream = LatentDataset(shards).stream(seed=seed)
        stream.set_epoch(epoch)
        return [clip["clip_id"] for clip in stream]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    ordered = [clip["clip_id"] for clip in LatentDataset(shards).stream(shuffle_clips=None)]
    assert ordered == LatentDataset(shards).clip_ids


def test_two_processes_of_a_training_run_share_the_shards(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rank in (0, 1):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        found.append([clip["clip_id"] for clip in LatentDataset(shards).stream()])

    assert sorted(found[0] + found[1]) == sorted(LatentDataset(shards).clip_ids)
    assert found[0]
    assert found[1]


def test_a_remote_folder_gives_the_same_clips_at_random_and_as_a_stream(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(monkeypatch)
    store.upload(shards)
    near, far = LatentDataset(shards), LatentDataset(store.url, cache_folder=tmp_path / "cache")
    for row in (7, 2, 19):
        np.testing.assert_array_equal(near[row]["video"], far[row]["video"])
        np.testing.assert_array_equal(near[row]["text"], far[row]["text"])

    assert [c["clip_id"] for c in far.stream(shuffle_clips=None)] == near.clip_ids
    store.answer = lambda name, content: (_ for _ in ()).throw(PermissionError(name))
    with pytest.raises(RemoteError, match="refused"):
        list(far.stream())


def test_clips_without_text_have_an_empty_mask_and_take_the_next_set(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "shards", clips=6, unit_clips=3, without_text=(1, 4))
    dataset = LatentDataset(tmp_path / "shards")

    assert [bool(dataset[row]["text_mask"].any()) for row in range(6)] == [True, False, True, True, False, True]
    streamed = [bool(clip["text_mask"].any()) for clip in dataset.stream(shuffle_clips=None)]
    assert streamed == [True, False, True, True, False, True]


def test_a_damaged_shard_is_named_and_never_read_silently(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "shards", clips=6, unit_clips=3)
    dataset = LatentDataset(tmp_path / "shards")
    place = dataset.source.index.video
    path = tmp_path / "shards" / "latents-000001.tar"
    content = bytearray(path.read_bytes())
    content[int(place.offset[4] + place.length[4]) - 3] ^= 255
    path.write_bytes(content)

    with pytest.raises(ShardError, match=r"latents-000001.tar.*damaged"):
        LatentDataset(tmp_path / "shards")[4]
    with pytest.raises(ShardError, match=r"latents-000001.tar.*damaged"):
        list(dataset.stream())
    path.write_bytes(b"no tar at all" * 1000)
    with pytest.raises(ShardError, match=r"latents-000001.tar"):
        list(dataset.stream())


def test_wrong_options_are_refused_with_one_clear_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no clip of split 'valid'; the index has test, train"):
        LatentDataset(shards, split="valid")
    with pytest.raises(ConfigError, match="no caption set 'c'; the folder has a, b"):
        LatentDataset(shards, captions="c")
    with pytest.raises(ConfigError, match="text_tokens is 0"):
        LatentDataset(shards, text_tokens=0)
    with pytest.raises(ConfigError, match="shuffle_clips is 0"):
        LatentDataset(shards).stream(shuffle_clips=0)
    with pytest.raises(ShardError, match="not found"):
        LatentDataset(tmp_path)
    assert uniform.LatentDataset is LatentDataset
