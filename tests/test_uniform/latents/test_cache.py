"""The cache of fetched files: never above its bound, never half a file, shared by processes that may die."""

import fcntl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest

from uniform.errors import RemoteError
from uniform.latents.fetching.cache import Cache


def put(cache: Cache, name: str, size: int) -> Path:
    path = cache.folder / "version" / name
    cache.obtain(path, size, lambda file: file.write(b"x" * size) and None)
    return path


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path, _ in cache.scan())


def test_files_of_other_runs_are_removed_first_then_those_needed_last(tmp_path: Path) -> None:
    def next_use(paths: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.array([{"soon": 1.0, "later": 2.0, "late": 3.0}.get(path, np.inf) for path in paths])

    cache = Cache(tmp_path, 100)
    cache.add_folder(tmp_path / "version", next_use)
    for name in ("late", "soon", "unknown", "later"):
        put(cache, name, 25)
    put(cache, "new", 20)
    assert names(cache) == ["later", "new", "soon"]  # a sixteenth of the bound is freed with it
    put(cache, "newer", 60)

    assert names(cache) == ["newer", "soon"]


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: IO[bytes]) -> None:
        raise RemoteError("gone")

    cache = Cache(tmp_path, 100)
    with pytest.raises(RemoteError, match="gone"):
        cache.obtain(tmp_path / "version" / "a", 80, fail)
    assert names(cache) == []
    put(cache, "b", 80)  # the room of the first is free again

    assert names(cache) == ["b"]


def test_a_file_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="a file of 101 bytes does not fit"):
        put(Cache(tmp_path, 100), "a", 101)


def test_what_the_dead_left_goes_and_what_the_living_fetch_stays(tmp_path: Path) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / ".tmp-1-dead").write_bytes(b"x" * 50)
    with (folder / ".tmp-2-living").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        living.truncate(30)
        cache = Cache(tmp_path, 100)
        cache.trim()

        assert names(cache) == [".tmp-2-living"]
        with pytest.raises(RemoteError, match="beside 30 bytes that are being fetched"):
            put(cache, "a", 80)


def test_a_lower_bound_is_kept_from_the_start(tmp_path: Path) -> None:
    for name in "abcd":
        put(Cache(tmp_path, 100), name, 25)
    lower = Cache(tmp_path, 60)
    lower.trim()

    assert len(names(lower)) == 2


def test_many_threads_fetch_a_file_once_and_stay_within_the_bound(tmp_path: Path) -> None:
    fetched: list[str] = []

    def work() -> None:
        cache = Cache(tmp_path, 1000)
        for number in range(8):
            name = f"file-{number}"

            def fill(file: IO[bytes], name: str = name) -> None:
                fetched.append(name)
                file.write(b"x" * 100)

            cache.obtain(tmp_path / "version" / name, 100, fill)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(fetched) == [f"file-{number}" for number in range(8)]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(RemoteError, match=r"cannot be written .*data.cache_folder"):
        put(Cache(tmp_path / "file", 100), "a", 10)
