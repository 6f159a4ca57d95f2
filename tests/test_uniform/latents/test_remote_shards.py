"""Remote shards: the batches of local ones, through a cache that is never too large, whatever the network does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.remote_folder import Store
from tests.support.shard_folder import write_shard_folder
from uniform.errors import ConfigError, RemoteError, ShardError
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.fetching.byte_ranges import remote_bytes
from uniform.latents.fetching.cache import Cache
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.latents.shards import remote

ROOMY, TIGHT = 1 << 30, 500_000
"""Cache sizes that hold the 0.8 MB of shards whole, and not."""


LOADERS: list[Loader] = []
"""That the test has opened."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard_folder(tmp_path / "shards", clips=40, unit_clips=7, captions=("a", "b"))
    return tmp_path / "shards"


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.0)
    opened = Store(monkeypatch)
    opened.upload(folder)
    yield opened
    while LOADERS:
        LOADERS.pop().close()  # a fetch that is late must not meet the next test
    opened.files.rm("/bucket", recursive=True)


def make(folder: Path | str, tmp_path: Path, **options: Any) -> Loader:
    config = LoaderConfig(**{"global_batch": 4, "cache_folder": tmp_path / "cache", "cache_bytes": ROOMY, **options})
    LOADERS.append(Loader(Mixture([SourceConfig(folder=folder)], 5, config.cache_folder), config))
    return LOADERS[-1]


def cached(tmp_path: Path) -> dict[Path, int]:
    return dict(Cache(tmp_path / "cache", 0).scan())


@pytest.mark.parametrize("residency", ["disk", "ram"])
@pytest.mark.parametrize("cache_bytes", [ROOMY, TIGHT])
def test_remote_batches_are_the_local_ones(
    folder: Path, store: Store, tmp_path: Path, residency: str, cache_bytes: int
) -> None:
    near, far = make(folder, tmp_path), make(store.url, tmp_path, residency=residency, cache_bytes=cache_bytes)

    for step in (*range(12), 3, 200):
        (one,), (two,) = near.read(step), far.read(step)
        assert one.clip_ids == two.clip_ids
        assert all(torch.equal(a, b) for a, b in zip((*one.clean, one.text), (*two.clean, two.text), strict=True))


def test_a_tight_cache_stays_within_its_bound(store: Store, tmp_path: Path) -> None:
    tight = make(store.url, tmp_path, cache_bytes=TIGHT)
    for step in range(30):
        tight.read(step)
        assert sum(cached(tmp_path).values()) <= TIGHT
    assert all(path.parent.suffix == ".pieces" for path in cached(tmp_path))


def test_a_roomy_cache_takes_each_shard_once_and_whole(folder: Path, store: Store, tmp_path: Path) -> None:
    roomy = make(store.url, tmp_path)
    for step in range(30):
        roomy.read(step)
    shards = sorted(path.name for path in folder.glob("*.tar"))
    assert sorted(name for name, _ in store.requests if name.endswith(".tar")) == shards


def test_what_is_needed_last_leaves_first(store: Store, tmp_path: Path) -> None:
    mixture = Mixture([SourceConfig(folder=store.url, captions=("a",))], 5, tmp_path / "cache")
    needs = remote_bytes(mixture, TIGHT)
    assert needs is not None
    assert not needs.whole_shards
    config = LoaderConfig(global_batch=4, cache_folder=tmp_path / "cache", cache_bytes=TIGHT, fetch_ahead=2)
    loader = Loader(mixture, config)
    LOADERS.append(loader)
    for step in range(10):
        loader.read(step)
    before = store.fetched_bytes()
    for step in range(10, 50):  # four epochs
        loader.read(step)

    again = (store.fetched_bytes() - before) / 4 / needs.wanted_bytes
    kept = TIGHT / needs.wanted_bytes
    assert again < 1 - 0.7 * kept, f"{again:.0%} came again although {kept:.0%} fit"
    # Least recently used would fetch 1 - kept^2 / 2 again: what was read early in an epoch is gone before the next.


def test_two_loaders_of_one_cache_fetch_each_shard_once(folder: Path, store: Store, tmp_path: Path) -> None:
    loaders = [make(store.url, tmp_path) for _ in range(2)]
    streams = [loader.stream(0, 6) for loader in loaders]
    for (one,), (two,) in zip(*streams, strict=True):
        assert torch.equal(one.clean.video, two.clean.video)

    assert len([name for name, _ in store.requests if name.endswith(".tar")]) == len(list(folder.glob("*.tar")))


def test_a_second_run_fetches_nothing_but_index_and_card(store: Store, tmp_path: Path) -> None:
    make(store.url, tmp_path).read(0)
    for step in range(10):
        make(store.url, tmp_path).read(step)
    store.requests.clear()
    make(store.url, tmp_path).read(3)

    assert {name for name, _ in store.requests} == {"index.parquet", "card.json"}


def test_a_failure_that_passes_is_retried_and_counted(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [TimeoutError("no route"), b"short"]

    def answer(name: str, content: bytes) -> bytes:
        failure = failures.pop() if failures and name.endswith(".tar") else content
        if isinstance(failure, TimeoutError):
            raise failure
        return failure

    store.answer = answer
    make(store.url, tmp_path, cache_bytes=TIGHT).read(0)

    assert not failures
    assert "of 5 failed (TimeoutError: no route)" in caplog.text
    assert "were requested, 5 bytes arrived)" in caplog.text


@pytest.mark.parametrize("cache_bytes", [ROOMY, TIGHT])
def test_a_failure_that_stays_names_the_shard_and_leaves_nothing_half(
    store: Store, tmp_path: Path, cache_bytes: int
) -> None:
    loader = make(store.url, tmp_path, cache_bytes=cache_bytes, max_corrupt=40)

    def answer(name: str, content: bytes) -> bytes:
        if name.startswith("latents"):
            raise OSError("https://host/object?signature=secret is down")
        return content

    store.answer = answer
    with pytest.raises(RemoteError, match=r"latents-00000\d.tar: 5 attempts failed.*\?\.\.\. is down") as caught:
        loader.read(0)
    assert "secret" not in str(caught.value)
    whole = [path for path in cached(tmp_path) if not path.name.startswith(".tmp")]  # other shards are still tried
    assert not any("latents" in path.as_posix() for path in whole)


def test_a_shard_that_changed_under_the_run_is_refused(folder: Path, store: Store, tmp_path: Path) -> None:
    loader = make(store.url, tmp_path, cache_bytes=TIGHT)
    write_shard_folder(folder, clips=40, unit_clips=7, captions=("a", "b"), seed=1)
    store.upload(folder)

    with pytest.raises(RemoteError, match=r"\.tar: changed since the run opened it, from [\d,]+ bytes \(created"):
        loader.read(0)


def test_a_shard_that_went_away_is_named(store: Store, tmp_path: Path) -> None:
    loader = make(store.url, tmp_path, cache_bytes=TIGHT)
    for path in store.files.glob("/bucket/shards/latents-*"):
        store.files.rm(path)

    with pytest.raises(RemoteError, match=r"shards/latents-00000\d.tar: not found"):
        loader.read(0)


@pytest.mark.parametrize("cache_bytes", [ROOMY, TIGHT])
def test_bytes_damaged_on_the_way_are_fetched_again(
    folder: Path, store: Store, tmp_path: Path, cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    damages = ["latents", "text-a"]

    def answer(name: str, content: bytes) -> bytes:
        if damages and name.startswith(damages[0]):
            damages.pop(0)
            return bytes(len(content))
        return content

    store.answer = answer
    near, far = make(folder, tmp_path), make(store.url, tmp_path, cache_bytes=cache_bytes)
    for step in range(3):
        assert torch.equal(near.read(step)[0].clean.video, far.read(step)[0].clean.video)
    assert not damages
    assert "do not have the checksums of the index" in caplog.text


@pytest.mark.parametrize("cache_bytes", [ROOMY, TIGHT])
def test_a_clip_that_is_damaged_there_is_named_or_borne(
    folder: Path, store: Store, tmp_path: Path, cache_bytes: int
) -> None:
    index = Mixture([SourceConfig(folder=folder)], 5).first
    shard, offset = index.shards[index.video.shard[9]], int(index.video.offset[9])
    content = bytearray((folder / shard).read_bytes())
    content[offset + 500] ^= 1
    store.files.pipe(f"/bucket/shards/{shard}", bytes(content))

    bearing = make(store.url, tmp_path, cache_bytes=cache_bytes, max_corrupt=1)
    for step in range(10):
        bearing.read(step)
    assert list(bearing.corrupt) == [index.clip_ids[9]]
    strict = make(store.url, tmp_path, cache_bytes=cache_bytes, verify="never")
    step = next(step for step in range(10) if index.clip_ids[9] in strict.clip_ids(step))
    with pytest.raises(ShardError, match=f"video of clip {index.clip_ids[9]}.*came from {store.url}/{shard}"):
        strict.read(step)


def test_a_cut_file_in_the_cache_is_fetched_again(folder: Path, store: Store, tmp_path: Path) -> None:
    make(store.url, tmp_path).read(0)
    for path in [path for path in cached(tmp_path) if not path.name.startswith(".tmp")]:
        path.write_bytes(path.read_bytes()[:1000])

    (batch,) = make(store.url, tmp_path).read(0)
    assert torch.equal(batch.clean.video, make(folder, tmp_path).read(0)[0].clean.video)


def test_a_folder_made_again_is_not_mixed_with_what_was_fetched_before(store: Store, tmp_path: Path) -> None:
    one = make(store.url, tmp_path)
    one.read(0)
    store.files.pipe("/bucket/shards/card.json", store.files.cat("/bucket/shards/card.json") + b"\n")
    two = make(store.url, tmp_path)

    folders = [loader.mixture.first.folder for loader in (one, two)]
    assert len({getattr(folder, "local", None) for folder in folders}) == 2
    assert [str(folder) for folder in folders] == [store.url] * 2


@pytest.mark.parametrize("url", ["https://me:secret@host/shards", "https://host/shards?token=secret"])
def test_a_url_with_a_credential_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        make(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_an_unknown_or_empty_place_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere://x: fsspec cannot open this URL"):
        make("nowhere://x", tmp_path)
    with pytest.raises(RemoteError, match=r"memory://empty/index.parquet: not found"):
        make("memory://empty", tmp_path)


def test_a_cache_below_four_batches_is_refused_before_step_0(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.cache_bytes is 100,000; .* set it to [\d,]+ or more"):
        make(store.url, tmp_path, cache_bytes=100_000)


def test_a_split_that_is_a_small_part_of_its_shards_is_fetched_clip_by_clip(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "split"
    write_shard_folder(folder, clips=40, unit_clips=40, captions=("a", "b"), splits={"train": 32, "valid": 8})
    store.upload(folder)
    needs = {
        split: remote_bytes(Mixture([SourceConfig(folder=store.url, split=split)], 5, tmp_path / "cache"), ROOMY)
        for split in ("train", "valid")
    }

    assert {split: found.whole_shards for split, found in needs.items() if found is not None} == {
        "train": True,
        "valid": False,
    }


def test_local_sources_need_no_fetching_and_make_no_cache(folder: Path, tmp_path: Path) -> None:
    loader = make(folder, tmp_path)
    loader.read(0)

    assert remote_bytes(loader.mixture, ROOMY) is None
    assert not (tmp_path / "cache").exists()


def test_next_use_is_where_the_order_gives_a_clip_next(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_shard_folder(other, clips=9, seed=1, captions=("a",))
    sources = [SourceConfig(folder=folder, weight=0.7), SourceConfig(folder=other, weight=0.3)]
    mixture = Mixture(sources, seed=3)
    plan = mixture.plan(np.arange(400))
    for begin in (0, 1, 77, 130):
        for number, size in ((0, 40), (1, 9)):
            expected = [
                begin + int(np.flatnonzero((plan.source[begin:] == number) & (plan.clip[begin:] == clip))[0])
                for clip in range(size)
            ]
            assert mixture.next_use(number, np.arange(size), begin).tolist() == expected


def test_a_card_that_is_too_large_is_not_read(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote.LARGEST_BYTES, "card.json", 10)

    with pytest.raises(RemoteError, match=r"card.json: [\d,]+ bytes; no more than 10 are read"):
        make(store.url, tmp_path)


def test_a_store_that_stops_answering_is_not_taken_for_one_without_the_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver for the web says "not found" whatever the reason was; the reason stands behind it."""
    loader = make(store.url, tmp_path, cache_bytes=TIGHT)

    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("shards") from ConnectionError("refused")

    with monkeypatch.context() as broken:
        broken.setattr(type(store.files), "info", refuse)
        broken.setattr(type(store.files), "cat_file", refuse)
        with pytest.raises(RemoteError, match=r"\.tar: 5 attempts failed, the last with ConnectionError: refused"):
            loader.read(0)
        loader.close()
