"""The same promises over a local disk, a loopback S3 server and fsspec's store in memory."""

import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.support.object_store import Store
from uniform.errors import PlaceError, RemoteError, StorageError
from uniform.storage.directory import Directory, LocalDirectory
from uniform.storage.outputs import open_directory
from uniform.storage.policy import StoragePolicy

ODD_NAMES = ("a:b", "a#b", "a?b", "a%20b", "a b", "a[1]*", "ä/日本", "deep/er/file.tar")


@pytest.fixture(params=["local", "s3", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    if request.param == "local":
        yield open_directory(tmp_path / "run: #1?%\n")
    elif request.param == "s3":
        request.getfixturevalue("store")
        yield open_directory("s3://bucket/run", StoragePolicy(part_bytes=5 << 20))
    else:
        yield open_directory("memory://storage-test/run")
        files = fsspec.filesystem("memory")
        if files.exists("/storage-test"):
            files.rm("/storage-test", recursive=True)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_is_written_is_read_back_under_any_legal_name(directory: Directory, name: str) -> None:
    directory.write(name, b"0123456789")

    assert directory.read(name) == b"0123456789"
    assert directory.read(name, 2, 5) == b"234"
    assert [(one.name, one.size) for one in directory.entries()] == [(name, 10)]


def test_a_published_file_replaces_the_older_one(directory: Directory, tmp_path: Path) -> None:
    directory.write("x.tar", b"old")
    (tmp_path / "new").write_bytes(b"newer")

    entry = directory.publish(tmp_path / "new", "x.tar")

    assert (entry.name, entry.size) == ("x.tar", 5)
    assert directory.read("x.tar") == b"newer"


def test_a_large_file_arrives_whole(directory: Directory, tmp_path: Path) -> None:
    content = bytes(range(256)) * (11 << 12)
    (tmp_path / "large").write_bytes(content)

    directory.publish(tmp_path / "large", "large.tar")

    assert directory.read("large.tar") == content


def test_an_open_file_seeks_and_reads_ranges(directory: Directory) -> None:
    directory.write("x", bytes(range(100)))

    with directory.open("x") as file:
        assert file.seek(-3, 2) == 97
        assert file.read() == bytes([97, 98, 99])
        assert file.seek(10) == 10
        assert file.read(2) == bytes([10, 11])


def test_a_name_is_created_once(directory: Directory) -> None:
    assert directory.create("commits/000001.json", b"first")
    assert not directory.create("commits/000001.json", b"second")
    assert directory.read("commits/000001.json") == b"first"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_of_many_that_create_at_once_one_succeeds(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "s3":
        request.getfixturevalue("store")
    place = tmp_path / "run" if kind == "local" else "s3://bucket/run"
    made: list[bytes] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        own = open_directory(place)
        start.wait()
        if own.create("commit", f"{number}".encode()):
            made.append(f"{number}".encode())

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == [open_directory(place).read("commit")]


def test_entries_are_found_by_prefix_at_any_depth(directory: Directory) -> None:
    for name in ("commits/a/1", "commits/a/2", "commits/b/1", "other"):
        directory.write(name, b"x")

    assert [one.name for one in directory.entries("commits/a/")] == ["commits/a/1", "commits/a/2"]
    assert [one.name for one in directory.entries("comm")] == ["commits/a/1", "commits/a/2", "commits/b/1"]
    assert directory.entries("nothing/") == []


def test_deleted_files_are_gone_and_absent_ones_are_accepted(directory: Directory) -> None:
    directory.write("a/b", b"x")

    directory.delete(["a/b", "a/c"])

    assert directory.entries() == []
    assert directory.entry("a/b") is None


def test_a_new_version_of_a_file_has_another_mark(directory: Directory) -> None:
    directory.write("x", b"1")
    first = directory.entry("x")
    directory.write("x", b"22")

    assert first is not None
    assert first != directory.entry("x")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "", ".", "a//b", "a\\b", "a\0"])
def test_no_name_leads_outside(directory: Directory, name: str) -> None:
    with pytest.raises(PlaceError, match="no name inside a directory"):
        directory.write(name, b"x")


def test_a_file_that_is_not_there_is_named(directory: Directory) -> None:
    with pytest.raises((StorageError, RemoteError), match=r"gone\.tar"):
        directory.read("gone.tar")


def test_a_listing_costs_requests_by_the_thousand_not_by_the_file(store: Store) -> None:
    directory = open_directory("s3://bucket/run")
    for number in range(30):
        directory.write(f"commits/{number:06d}", b"x")
    store.seen.clear()

    assert len(directory.entries("commits/")) == 30
    assert sum(store.seen.values()) <= 2


def test_an_unfinished_local_write_is_not_listed(tmp_path: Path) -> None:
    directory = LocalDirectory(tmp_path)
    directory.write("a", b"x")
    (tmp_path / ".tmp-dead").write_bytes(b"half")

    assert [one.name for one in directory.entries()] == ["a"]
