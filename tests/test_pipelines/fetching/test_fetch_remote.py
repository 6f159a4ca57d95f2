"""Object stores and hubs through fsspec, here its store in memory."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipelines.clip import Row
from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.remote import RemoteFetcher
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="hub",
    split="train",
    source_kind="fsspec",
    source_id="a",
    source_uri="memory://bucket/a.webm",
    start_ms=0,
    duration_ms=4000,
)


@pytest.fixture
def bucket() -> Iterator[None]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.webm", b"clip" * 1000)
    memory.pipe("/bucket/empty.mp4", b"")
    yield
    memory.rm("/bucket", recursive=True)


def fetcher(folder: Path, largest_bytes: int = 10_000) -> RemoteFetcher:
    return RemoteFetcher(
        MediaStore(folder), HostRateLimiter(FileHostStates(folder / "pace"), HostPolicy(burst=99)), largest_bytes
    )


@pytest.mark.usefixtures("bucket")
def test_a_file_of_a_bucket_is_copied_once(tmp_path: Path) -> None:
    fetched = fetcher(tmp_path).fetch(ROW)
    fsspec.filesystem("memory").pipe("/bucket/a.webm", b"other")

    assert fetched.path.read_bytes() == b"clip" * 1000
    assert fetched.path.suffix == ".webm"
    assert fetcher(tmp_path).fetch(ROW) == fetched


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("memory://bucket/none.mp4", "http_404"),
        ("memory://bucket/empty.mp4", "empty_file"),
        ("gs://bucket/a.mp4", "no_driver"),
    ],
)
def test_what_cannot_be_had_has_a_code(tmp_path: Path, uri: str, code: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher(tmp_path).fetch(replace(ROW, source_uri=uri))
    assert caught.value.code == code


@pytest.mark.usefixtures("bucket")
def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="too_large"):
        fetcher(tmp_path, largest_bytes=100).fetch(ROW)


@pytest.mark.usefixtures("bucket")
def test_a_slow_store_is_given_up(tmp_path: Path) -> None:
    rate_limiter = HostRateLimiter(FileHostStates(tmp_path / "pace"), HostPolicy(burst=99))
    minutes = (60.0 * number for number in itertools.count())
    slow = RemoteFetcher(MediaStore(tmp_path), rate_limiter, 10_000, clock=lambda: next(minutes))

    with pytest.raises(FetchError, match=r"too_slow: 4,000 bytes in 60 s"):
        slow.fetch(ROW)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("suffix", [f".{'x' * 300}", ".json", ".refused.json", ".lock", ".tmp-a"])
def test_a_suffix_from_outside_never_names_a_file_of_ours(tmp_path: Path, suffix: str) -> None:
    fsspec.filesystem("memory").pipe(f"/bucket/a{suffix}", b"clip" * 1000)
    row = replace(ROW, source_uri=f"memory://bucket/a{suffix}")
    first, again = fetcher(tmp_path).fetch(row), fetcher(tmp_path).fetch(row)

    assert first == again
    assert first.path.suffix == ".bin"
    assert first.path.read_bytes() == b"clip" * 1000
