"""A run finds its sources wherever it is, and a source that changed since the fetch is not cut."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.clip import Clip
from pipelines.fetching.http import HttpOptions
from pipelines.recipe import make_recipe
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.retry import plan_again
from pipelines.stage_support.source_file import SourceFiles, stored_path
from pipelines.stages.clip_media import Stage as ClipStage
from pipelines.stages.fetch_media import Stage as FetchStage
from tests.support.hostile_server import HostileServer, hostile_server
from tests.support.media_files import write_numbered
from tests.test_pipelines.fetching.test_fetch_http import OPEN, ROW
from uniform.errors import MediaError
from uniform.spec import TOY


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostileServer]:
    with hostile_server() as running:
        running.files["/a.mp4"] = write_numbered(tmp_path / "made.mp4", seconds=4.0).read_bytes()
        yield running


def run_in(folder: Path, server: HostileServer) -> Run:
    """A run that fetches one source and cuts one clip out of it."""
    fetch = FetchStage(allow_hosts=("127.0.0.1",), rate_limit=OPEN, http=HttpOptions(attempts=1))
    row = replace(ROW, source_uri=server.url("/a.mp4"), duration_ms=TOY.duration_ms)
    return make_run([row], make_recipe("r", TOY, 8, [("fetch_media", fetch), ("clip_media", ClipStage())]), folder)


def work(run: Run, until: str | None = None) -> Mapping[str, int]:
    return run_pipeline(run, InlineBackend(), LogListener(), until=until).final.codes


@pytest.mark.parametrize("how", ["moved", "copied", "copied and the old one removed"])
@pytest.mark.parametrize("absolute", [False, True], ids=["new", "0.3.0"])
def test_a_run_that_was_moved_or_copied_between_stages_goes_on(
    server: HostileServer, tmp_path: Path, how: str, absolute: bool
) -> None:
    first, second = tmp_path / "run", tmp_path / "elsewhere" / "run2"
    work(run_in(first, server), until="fetch_media")
    (table,) = (first / "media").glob("*.parquet")
    source = pq.read_table(table)["source"].to_pylist()[0]
    assert source.startswith("sources/")
    if absolute:  # as version 0.3.0 wrote it
        found = pq.read_table(table)
        column = pa.array([str(first / source)])
        pq.write_table(found.set_column(found.schema.get_field_index("source"), "source", column), table)
    second.parent.mkdir()
    if how == "moved":
        first.rename(second)
    else:
        shutil.copytree(first, second)
    if how == "copied":
        (first / source).write_bytes(b"not the source any more")
    elif how == "copied and the old one removed":
        shutil.rmtree(first)

    assert work(run_in(second, server)) == {"ok": 1}
    assert server.requests["/a.mp4"] == 1


@pytest.mark.parametrize("same_size", [False, True])
def test_a_source_that_changed_since_the_fetch_is_dropped_and_fetched_again_by_a_retry(
    server: HostileServer, tmp_path: Path, same_size: bool
) -> None:
    run = run_in(tmp_path / "run", server)
    work(run, until="fetch_media")
    (source,) = (tmp_path / "run" / "sources").rglob("*.mp4")
    content = source.read_bytes()
    source.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if same_size else content + b"x")

    assert work(run) == {"changed": 1}
    assert plan_again(RunFolder(tmp_path / "run"), "changed", 8) == [1]
    assert work(run) == {"ok": 1}
    assert server.requests["/a.mp4"] == 2


def test_sources_in_a_folder_outside_the_run_keep_their_absolute_path(tmp_path: Path) -> None:
    assert stored_path(tmp_path / "shared" / "a.mp4", tmp_path / "run") == str(tmp_path / "shared" / "a.mp4")
    assert stored_path(tmp_path / "run" / "sources" / "a.mp4", tmp_path / "run") == "sources/a.mp4"


def test_a_path_that_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"changed: .* leads out of the run directory"):
        SourceFiles(tmp_path).find(Clip(ROW, {"source": "../outside.mp4"}))


def test_a_digest_is_read_once_for_an_unchanged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"content")
    fields = {"source": "a.mp4", "source_bytes": 7, "source_sha256": hashlib.sha256(b"content").hexdigest()}
    sources = SourceFiles(tmp_path)
    sources.find(Clip(ROW, fields))
    monkeypatch.setattr("pipelines.stage_support.source_file.file_sha256", lambda _: pytest.fail("read again"))

    assert sources.find(Clip(ROW, fields)) == tmp_path / "a.mp4"
