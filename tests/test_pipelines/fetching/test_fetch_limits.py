"""What a limit of ours cost a clip can be asked for again; a full disk costs none, for it stops the run."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.fetching.base import FetchError
from pipelines.fetching.http import HttpOptions
from pipelines.fetching.partial_download import PartialDownload
from pipelines.fetching.store import Made, MediaStore
from pipelines.recipe import make_recipe
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.retry import plan_again
from pipelines.stages.fetch_media import Stage
from tests.support.hostile_server import HostileServer, hostile_server
from tests.test_pipelines.fetching.test_fetch_http import OPEN, ROW
from uniform.errors import PipelineError
from uniform.spec import TOY


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def run_of(out: Path, urls: list[str], *, largest_bytes: int = 1_000_000, **options: object) -> Run:
    """A run that fetches one clip from each address."""
    http = HttpOptions(attempts=1, largest_bytes=largest_bytes)
    stage = Stage(**{"allow_hosts": ("127.0.0.1",), "rate_limit": OPEN, "http": http, **options})  # type: ignore[arg-type]
    rows = [replace(ROW, clip_id=f"{n:016x}", source_id=url, source_uri=url) for n, url in enumerate(urls)]
    return make_run(rows, make_recipe("fetch", TOY, 8, [("fetch_media", stage)]), out)


def codes(run: Run) -> Mapping[str, int]:
    return run_pipeline(run, InlineBackend(), LogListener()).final.codes


def test_what_was_too_large_is_had_after_a_retry_with_another_limit(server: HostileServer, tmp_path: Path) -> None:
    urls = [server.url("/ok/a.mp4")]
    assert codes(run_of(tmp_path, urls, largest_bytes=10_000)) == {"too_large": 1}
    assert codes(run_of(tmp_path, urls)) == {"too_large": 1}  # a limit makes nothing stale
    assert plan_again(RunFolder(tmp_path), "too_large", 8) == [1]

    assert codes(run_of(tmp_path, urls)) == {"ok": 1}
    assert server.requests["/ok/a.mp4"] == 2


def test_a_host_that_was_not_allowed_is_asked_after_a_retry(server: HostileServer, tmp_path: Path) -> None:
    urls = [server.url("/ok/a.mp4")]
    assert codes(run_of(tmp_path, urls, allow_hosts=())) == {"address_refused": 1}
    plan_again(RunFolder(tmp_path), "address_refused", 8)

    assert codes(run_of(tmp_path, urls)) == {"ok": 1}


def test_a_lasting_refusal_is_asked_again_by_force(server: HostileServer, tmp_path: Path) -> None:
    urls = [server.url("/status/404/a.mp4")]
    for _ in range(2):
        assert codes(run_of(tmp_path, urls)) == {"http_404": 1}
    assert sum(server.requests.values()) == 1

    plan_again(RunFolder(tmp_path), "http_404", 8, force=True)

    assert codes(run_of(tmp_path, urls)) == {"http_404": 1}
    assert sum(server.requests.values()) == 2


def test_a_retry_lifts_refusals_of_its_own_policy_alone(tmp_path: Path) -> None:
    def refuse(work: Path) -> Made:
        raise FetchError("removed", "gone")

    with pytest.raises(FetchError, match="gone"):
        MediaStore(tmp_path).once("a" * 32, refuse)

    for policy, answer in (("over_limit", "asked before"), ("permanent", "gone$")):
        with pytest.raises(FetchError, match=answer):
            MediaStore(tmp_path, unblocked_at_s={policy: 1e12}).once("a" * 32, refuse)


def full_at_commit(patched: pytest.MonkeyPatch) -> None:
    """The disk is full when a source's facts are written, as a quota says it."""

    def full(path: Path, text: str) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    patched.setattr("pipelines.fetching.store._put", full)


def full_half_way(patched: pytest.MonkeyPatch) -> None:
    """The disk is full while a source comes."""

    @contextmanager
    def growing(part: PartialDownload) -> Iterator[Callable[[bytes], int]]:
        def append(chunk: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        yield append

    patched.setattr(PartialDownload, "growing", growing)


@pytest.mark.parametrize("full", [full_at_commit, full_half_way])
def test_a_full_disk_under_shared_sources_stops_the_run_and_the_next_goes_on(
    full: Callable[[pytest.MonkeyPatch], None], server: HostileServer, tmp_path: Path
) -> None:
    urls = [server.url(f"/ok/{n}.mp4") for n in range(4)]
    run = run_of(tmp_path / "run", urls, sources=str(tmp_path / "shared"))

    with pytest.MonkeyPatch.context() as patched:
        full(patched)
        with pytest.raises(PipelineError, match=f"{tmp_path / 'shared'}: no space left .* goes on where it stopped"):
            codes(run)

    assert sum(server.requests.values()) == 1  # the other hosts were left alone
    assert not (tmp_path / "run" / "commits").exists()
    assert codes(run) == {"ok": 4}


def test_a_program_that_finds_the_disk_full_stops_the_run_too(tmp_path: Path) -> None:
    def full(work: Path) -> Made:
        (work / "part").write_text("what has come")
        raise FetchError("disk_full", "unable to write data: [Errno 28] No space left on device")

    with pytest.raises(PipelineError, match=r"no space left .unable to write data"):
        MediaStore(tmp_path).once("a" * 32, full)
    assert [path.read_text() for path in tmp_path.rglob("part")] == ["what has come"]
