"""Scratch space is bounded and cleaned; results go to paths and URLs alike."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.object_store import Store
from tests.support.paths import ROOT
from uniform.errors import PlaceError, RemoteError, StorageError
from uniform.storage.address import is_url, require_local, require_writable
from uniform.storage.outputs import output_file, output_folder
from uniform.storage.scratch import Scratch


def test_scratch_goes_with_its_block(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch, scratch.space(10) as folder:
        (folder / "x").write_bytes(b"x")

    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_scratch_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from uniform.storage.scratch import Scratch\n"
        "scratch = Scratch(Path(sys.argv[1]))\n"
        "(scratch.folder / 'half.tar').write_bytes(b'x' * 1000)\n"
        "sys.stdout.write(str(scratch.folder)); sys.stdout.flush(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        name = child.stdout.read(len(str(tmp_path)) + len(f"/{child.pid}-") + 32)
        with Scratch(tmp_path):
            assert (Path(name) / "half.tar").is_file()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()

    with Scratch(tmp_path):
        assert not Path(name).exists()


def test_scratch_is_bounded(tmp_path: Path) -> None:
    with Scratch(tmp_path, limit_bytes=100) as scratch:
        with (
            scratch.space(80),
            pytest.raises(StorageError, match="50 bytes of scratch space are wanted, 20 are left"),
            scratch.space(50),
        ):
            pass
        with scratch.space(50) as folder:
            assert folder.is_dir()


def test_results_kept_aside_survive_cleaning(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch, scratch.space() as folder:
        (folder / "x").write_bytes(b"x")
        kept = scratch.keep(folder)

    with Scratch(tmp_path):
        assert (kept / "x").read_bytes() == b"x"


def test_a_folder_of_results_is_sent_when_the_block_ends_and_not_before(store: Store) -> None:
    with output_folder("s3://bucket/out/samples") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.mp4").write_bytes(b"a")
        (folder / "index.html").write_bytes(b"page")
        (folder / ".tmp-half").write_bytes(b"half")
        assert store.objects() == {}

    assert store.objects() == {"out/samples/sub/a.mp4": b"a", "out/samples/index.html": b"page"}


def test_a_block_that_fails_sends_nothing_unless_it_resumes(store: Store) -> None:
    def work(resume: bool) -> None:
        with output_folder("s3://bucket/out", resume=resume) as folder:
            (folder / "a").write_bytes(b"a")
            raise KeyboardInterrupt

    for resume, sent in ((False, {}), (True, {"out/a": b"a"})):
        with pytest.raises(KeyboardInterrupt):
            work(resume)
        assert store.objects() == sent


def test_a_resumed_folder_begins_with_what_is_there_and_sends_only_changes(store: Store) -> None:
    with output_folder("s3://bucket/out", resume=True) as folder:
        (folder / "a").write_bytes(b"a")
    store.seen.clear()

    with output_folder("s3://bucket/out", resume=True) as folder:
        assert (folder / "a").read_bytes() == b"a"
        (folder / "b").write_bytes(b"b")

    assert store.seen["PUT"] == 1
    assert store.objects() == {"out/a": b"a", "out/b": b"b"}


def test_one_file_goes_to_a_url(store: Store) -> None:
    with output_file("s3://bucket/tables/manifest.parquet") as path:
        path.write_bytes(b"PAR1")

    assert store.objects() == {"tables/manifest.parquet": b"PAR1"}


def test_a_bucket_that_does_not_exist_is_found_before_the_work(store: Store) -> None:
    with pytest.raises(RemoteError, match="s3://nowhere/x"), output_folder("s3://nowhere/x"):
        pytest.fail("the work began")


@pytest.mark.parametrize("place", ["a:b", "s3:/b/x", "C:\\x", "x#y", "a?b", "100%", "a\nb", "dir/s3://x", "~/s3"])
def test_only_a_scheme_with_two_slashes_at_the_front_makes_a_url(place: str) -> None:
    assert not is_url(place)
    assert require_local(place) == Path(place)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://user:word@b/x", "credential"),
        ("s3://b/x?X-Amz-Signature=abc", "credential"),
        ("s3://b/x#y", "fragment"),
        ("s3://", "no bucket"),
        ("s3://b/../x", r"'\.\.'"),
        ("s3://b::s3://c", "chained"),
        ("https://h/x", "nothing can be written"),
        ("hf://x/y", "nothing can be written"),
        ("ftp://h/x", "nothing can be written"),
    ],
)
def test_a_url_that_cannot_be_written_is_refused_without_its_secrets(url: str, reason: str) -> None:
    with pytest.raises(PlaceError, match=reason) as refused:
        require_writable(url)
    assert "word" not in str(refused.value)
    assert "abc" not in str(refused.value)
