"""A store that fails: nothing is lost, nothing is half visible, and attempts are counted."""

from pathlib import Path

import pytest

from tests.support.object_store import Fault, Store
from uniform.errors import RemoteError
from uniform.storage.outputs import open_directory, output_folder
from uniform.storage.policy import NoAnswerError, StoragePolicy

POLICY = StoragePolicy(
    attempts=3,
    first_pause_s=0.01,
    connect_timeout_s=1,
    read_timeout_s=3,
    slowest_bytes_per_s=1e9,
    part_bytes=5 << 20,
)
TEMPORARY = {
    "500": Fault("status", status=500),
    "503 SlowDown": Fault("status", status=503, code="SlowDown"),
    "reset in mid-upload": Fault("reset"),
    "slow drip": Fault("drip"),
    "answer lost": Fault("lost_answer"),
}
SIZES = {"at once": 100_000, "in parts": 11 << 20}


def _copy(fault: Fault, **changes: object) -> Fault:
    return Fault(**{**vars(fault), **changes})  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "latents-000000.tar"
    path.write_bytes(bytes(number % 251 for number in range(1000)) * (SIZES[request.param] // 1000))
    return path


@pytest.mark.parametrize("file", SIZES, indirect=True)
@pytest.mark.parametrize("kind", TEMPORARY)
def test_an_upload_survives_a_failure_that_passes(kind: str, file: Path, store: Store) -> None:
    store.faults = [_copy(TEMPORARY[kind], times=1)]

    open_directory("s3://bucket/run", POLICY).publish(file, file.name)

    assert store.objects() == {f"run/{file.name}": file.read_bytes()}


@pytest.mark.parametrize("file", SIZES, indirect=True)
@pytest.mark.parametrize("kind", TEMPORARY)
def test_an_upload_that_never_succeeds_ends_and_leaves_nothing_half(kind: str, file: Path, store: Store) -> None:
    store.faults = [_copy(TEMPORARY[kind])]

    with pytest.raises(NoAnswerError, match=r"latents-000000\.tar: 3 attempts failed"):
        open_directory("s3://bucket/run", POLICY).publish(file, file.name)

    found = store.objects()
    assert all(content == file.read_bytes() for content in found.values())
    assert (len(found) == 0) or kind == "answer lost"
    assert 3 <= store.seen["PUT"] <= 18  # 3 attempts of 3 parts; the HTTP library repeats a reset request once


@pytest.mark.parametrize("file", ["in parts"], indirect=True)
def test_an_upload_that_breaks_at_its_last_part_is_not_visible(file: Path, store: Store) -> None:
    store.faults = [Fault("status", after=2)]

    with pytest.raises(NoAnswerError):
        open_directory("s3://bucket/run", POLICY).publish(file, file.name)

    assert store.objects() == {}
    assert store.parts_left() == 0


@pytest.mark.parametrize("file", ["at once"], indirect=True)
def test_a_refusal_is_not_tried_again(file: Path, store: Store) -> None:
    directory = open_directory("s3://bucket/run", POLICY)
    directory.write("before", b"x")  # the credentials end in the middle of a run
    store.seen.clear()
    store.faults = [Fault("status", status=403, code="ExpiredToken", methods=("PUT", "GET", "HEAD"))]

    with pytest.raises(RemoteError, match=r"refused .*environment variables"):
        directory.publish(file, file.name)

    assert store.seen["PUT"] == 1
    assert set(store.objects()) == {"run/before"}


@pytest.mark.parametrize("file", ["at once"], indirect=True)
def test_a_wrong_etag_is_settled_by_the_bytes(file: Path, store: Store) -> None:
    store.faults = [Fault("etag", methods=("PUT", "HEAD"))]

    open_directory("s3://bucket/run", POLICY).publish(file, file.name)

    assert store.seen["GET"] == 1
    assert store.objects() == {f"run/{file.name}": file.read_bytes()}


@pytest.mark.parametrize("kind", ["500", "reset in mid-upload", "answer lost"])
def test_a_commit_whose_answer_was_lost_is_made_exactly_once(kind: str, store: Store) -> None:
    store.faults = [_copy(TEMPORARY[kind], times=1)]

    assert open_directory("s3://bucket/run", POLICY).create("commit", b"mine")
    assert not open_directory("s3://bucket/run", POLICY).create("commit", b"another")
    assert store.objects() == {"run/commit": b"mine"}


@pytest.mark.parametrize("kind", TEMPORARY)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_survives_a_failure_that_passes(kind: str, method: str, store: Store) -> None:
    directory = open_directory("s3://bucket/run", POLICY)
    directory.write("x", b"0123456789")
    if (kind, method) == ("slow drip", "HEAD"):
        pytest.skip("the answer to HEAD has no body")
    store.faults = [_copy(TEMPORARY[kind], times=1, methods=(method,))]

    assert directory.read("x") == b"0123456789"
    assert [one.name for one in directory.entries()] == ["x"]


def test_results_that_cannot_be_sent_are_kept_and_their_folder_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIFORM_SCRATCH", str(tmp_path / "scratch"))

    def work() -> None:
        with output_folder("s3://bucket/samples") as folder:
            (folder / "a.mp4").write_bytes(b"made for hours")
            store.faults = [Fault("status", status=403, code="ExpiredToken")]

    with pytest.raises(RemoteError, match="kept in") as refused:
        work()

    (kept,) = (tmp_path / "scratch" / "unsent").iterdir()
    assert str(kept) in str(refused.value)
    assert (kept / "a.mp4").read_bytes() == b"made for hours"
    assert store.objects() == {}
