"""The store of sources: names from outside stay out of ours, changed files are fetched again, clocks can be wrong."""

import contextlib
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from pipelines.fetching.base import FetchError
from pipelines.fetching.store import MEDIA_SUFFIXES, Made, MediaStore, kept_suffix
from pipelines.run.folder import RunFolder

KEY = "ab" * 16
NOON = 1_750_000_000.0


def put(store: MediaStore, content: bytes, name: str = "a.mp4", key: str = KEY) -> Path:
    def attempt(work: Path) -> Made:
        (work / "new").write_bytes(content)
        return Made(work / "new", kept_suffix(name))

    return store.once(key, attempt).path


def refuse(work: Path) -> Made:
    raise FetchError("removed", "gone")


@pytest.mark.parametrize(
    "name", ["clip.json", "a.refused.json", "b.JSON", "c.lock", "d.tmp-x", "e.mp4/../f.json", "g." + "x" * 300, "h.é"]
)
def test_no_name_from_outside_becomes_a_name_of_ours(tmp_path: Path, name: str) -> None:
    store = MediaStore(tmp_path)
    first = put(store, b"content", name)
    again = store.find(KEY)

    assert first.suffix == ".bin"
    assert again is not None
    assert again.path.read_bytes() == b"content"


def test_media_keep_their_suffix_and_none_of_them_is_one_of_our_own() -> None:
    assert [kept_suffix(name) for name in ("a.MP4", "b.webm", "c")] == [".mp4", ".webm", ".mp4"]
    assert not MEDIA_SUFFIXES & {".json", ".lock", ".part", ".tmp"}


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path, same_size: bool) -> None:
    path = put(MediaStore(tmp_path), b"content")
    path.write_bytes(b"CONTENT" if same_size else b"other content")
    os.utime(path, ns=(0, 10**18))

    assert put(MediaStore(tmp_path), b"content").read_bytes() == b"content"


def test_a_copied_store_is_used_as_it_is(tmp_path: Path) -> None:
    path = put(MediaStore(tmp_path), b"content")
    os.utime(path, ns=(0, 10**18))  # as a copy without times leaves it

    found = MediaStore(tmp_path).find(KEY)

    assert found is not None
    assert found.path == path


def test_metadata_of_version_0_3_0_is_read(tmp_path: Path) -> None:
    path = put(MediaStore(tmp_path), b"content")
    metadata = json.loads(path.with_suffix(".json").read_text())
    del metadata["mtime_ns"]
    path.with_suffix(".json").write_text(json.dumps(metadata))

    assert MediaStore(tmp_path).find(KEY) is not None


@pytest.mark.parametrize(
    "change",
    [{"suffix": ".json"}, {"suffix": "/../../x.mp4"}, {"suffix": 7}, {"bytes": "7"}, {"notes": None}, {"sha256": 1}],
)
def test_metadata_that_is_not_ours_counts_for_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    path = put(MediaStore(tmp_path), b"content")
    metadata = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**metadata, **change}))

    assert MediaStore(tmp_path).find(KEY) is None


def test_a_refusal_from_the_future_or_of_an_unknown_code_is_asked_again(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"gone$"):
        MediaStore(tmp_path, clock=lambda: NOON + 10 * 365 * 86_400).once(KEY, refuse)
    assert put(MediaStore(tmp_path, clock=lambda: NOON), b"content").read_bytes() == b"content"

    other = "cd" * 16
    with pytest.raises(FetchError):
        MediaStore(tmp_path, clock=lambda: NOON).once(other, refuse)
    (refusal,) = tmp_path.rglob(f"{other}.refused.json")
    for content in ('{"code": "no_such_code", "reason": "x", "time": 1e9}', '{"code": [], "time": "x"}', "[" * 99_999):
        refusal.write_text(content)
        with pytest.raises(FetchError, match=r"gone$"):
            MediaStore(tmp_path, clock=lambda: NOON).once(other, refuse)


def test_a_sweep_leaves_sources_alone_and_two_runs_share_them(tmp_path: Path) -> None:
    store, stop = MediaStore(tmp_path / "run" / "sources"), threading.Event()
    errors: list[BaseException] = []

    def sweep() -> None:
        while not stop.is_set():
            RunFolder(tmp_path / "run").sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for number in range(200):
        try:
            put(store, b"content", key=f"{number:032x}")
        except BaseException as error:
            errors.append(error)
    stop.set()
    sweeper.join()

    assert not errors
    assert sum(1 for _ in tmp_path.rglob("*.mp4")) == 200


def test_a_temporary_file_of_the_store_that_vanishes_is_written_again(tmp_path: Path) -> None:
    """As a sweep of version 0.3.0 in another process makes it vanish."""
    store, stop, removed = MediaStore(tmp_path), threading.Event(), []

    def sweep() -> None:
        while not stop.is_set():
            for number in range(100):
                with contextlib.suppress(FileNotFoundError):
                    (tmp_path / "00" / f".tmp-{number:032x}.json").unlink()
                    removed.append(number)
            time.sleep(0.0005)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for number in range(100):
        put(store, b"content", key=f"{number:032x}")
    stop.set()
    sweeper.join()

    assert sum(1 for _ in tmp_path.rglob("*.mp4")) == 100


def test_a_temporary_file_is_dead_only_when_its_lock_is_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "latents").mkdir()
    dead, alive = tmp_path / "latents" / ".tmp-dead", tmp_path / "latents" / ".tmp-alive"
    dead.write_bytes(b"x")
    (tmp_path / ".tmp-link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / ".tmp-pipe")
    began = time.monotonic()
    with alive.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert folder.sweep() == 3
        assert alive.exists()
        assert not dead.exists()
    assert folder.sweep() == 1
    assert time.monotonic() - began < 5
    assert Path("/etc/passwd").exists()


def test_a_kill_leaves_no_temporary_file_that_stays(tmp_path: Path) -> None:
    path = put(MediaStore(tmp_path), b"content")
    left = path.with_name(f".tmp-{path.stem}.json")
    left.write_text("half of a file, as a killed process leaves it")
    path.with_suffix(".json").unlink()

    put(MediaStore(tmp_path), b"content")

    assert not left.exists()
