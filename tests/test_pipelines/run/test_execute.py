"""One unit: what comes out, and that every trouble ends clearly with nothing half-visible."""

import errno
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.clip import Clip
from pipelines.run import artifacts as shards
from pipelines.run.commits import read_commit
from pipelines.run.job import Run
from pipelines.run.pipeline import InlineBackend, LogListener, RunResult, run_pipeline
from pipelines.stage import Context, Work
from tests.support.fake_stages import Cut, Encode, fake_run, recipe, results, rows, seed
from tests.support.paths import ROOT
from uniform.errors import MediaError, PipelineError, ShardError
from uniform.latents.shards.tar import walk


def do(run: Run, **options: Any) -> RunResult:
    return run_pipeline(run, InlineBackend(), LogListener(), **options)


def nothing_half_visible(out: Path) -> bool:
    shown = {path.name for path in out.glob("*.tar")}
    commits = [read_commit(path) for path in (out / "commits").rglob("*.json")]
    made = {commit.artifact for commit in commits if commit is not None}
    return shown <= made and not list(out.rglob(".tmp-*")) and not (out / "index.parquet").exists()


def test_every_clip_has_one_row_per_stage_that_it_reached(tmp_path: Path) -> None:
    result = do(fake_run(tmp_path))

    cut = pq.read_table(tmp_path / "ledger" / "cut").to_pylist()
    look = pq.read_table(tmp_path / "ledger" / "look").to_pylist()
    assert sorted(row["clip_id"] for row in cut) == sorted(row.clip_id for row in rows(20))
    assert sorted(row["clip_id"] for row in look) == sorted(row["clip_id"] for row in cut if row["status"] == "ok")
    rejected = next(row for row in cut if row["status"] == "rejected")
    assert (rejected["code"], rejected["permanent"], rejected["output"]) == ("too_short", True, None)
    assert rejected["reason"].endswith(" s")
    kept = next(row for row in cut if row["status"] == "ok")
    assert (kept["bytes"], kept["recipe"], kept["attempt"]) == (400, "fakes", 1)
    assert kept["output"] == f"clips-{kept['unit']:06d}.tar"
    assert result.final.clips == 20 == result.final.kept + result.final.rejected + result.final.failed


def test_notes_reach_the_stages_that_are_made_from_the_clip_and_the_ledger(tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    with tarfile.open(tmp_path / "latents-000000.tar") as tar:
        name = next(name for name in tar.getnames() if name.endswith(".json"))
        metadata = json.load(tar.extractfile(name))  # type: ignore[arg-type]
    row = next(row for row in rows(20) if row.clip_id == metadata["clip_id"])
    assert metadata["notes"] == [f"number {seed(row)}"]
    (part,) = (tmp_path / "ledger" / "cut").glob("000000-*.parquet")
    assert f"number {seed(row)}" in pq.read_table(part)["reason"].to_pylist()
    (part,) = (tmp_path / "ledger" / "encode").glob("000000-*.parquet")
    assert set(pq.read_table(part)["reason"].to_pylist()) == {""}


def test_a_unit_without_a_clip_left_is_a_done_unit(tmp_path: Path) -> None:
    made = recipe(cut=Cut(reject_every=1))

    result = do(fake_run(tmp_path, made=made))
    again = do(fake_run(tmp_path, made=made))

    assert (result.final.rejected, result.final.kept, result.indexed) == (20, 0, None)
    assert again.units_made == 0
    assert list(walk(tmp_path / "latents-000000.tar")) == []


def test_a_bug_in_a_stage_names_stage_unit_clip_and_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    clip_id = rows(20)[3].clip_id

    with pytest.raises(PipelineError) as stopped:
        do(fake_run(tmp_path, made=recipe(cut=Cut(raises=clip_id))))

    for part in ("stage 'cut', unit 1", clip_id, "ZeroDivisionError: a bug in a stage", "fake_stages.py"):
        assert part in str(stopped.value)
    assert nothing_half_visible(tmp_path)
    do(fake_run(tmp_path))
    do(fake_run(tmp_path / "peace"))
    assert results(tmp_path) == results(tmp_path / "peace")


@dataclass(frozen=True, kw_only=True)
class Wrong(Cut):
    """A stage that breaks its promise in some way."""

    way: str = ""

    def open(self, context: Context) -> Work:
        return getattr(self, f"_{self.way}")

    def _loses(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in list(clips)[1:]:
            yield clip.with_fields(mp4=b"x")

    def _ends_early(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in list(clips)[:-1]:
            yield clip.with_fields(mp4=b"x")

    def _swaps(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in reversed(list(clips)):
            yield clip.with_fields(mp4=b"x")

    def _doubles(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            yield clip.with_fields(mp4=b"x")
        yield clip

    def _forgets(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        yield from clips

    def _invents_a_code(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            yield clip.drop("too_shrt", "")

    def _fails_what_is_rejected(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            yield clip.drop("too_short", "")

    def _raises_for_a_clip(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for _ in clips:
            raise MediaError("no_audio", "this should have been a verdict")
            yield

    def _is_full(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for _ in clips:
            raise OSError(errno.ENOSPC, "No space left on device")
            yield

    def _cannot_read(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for _ in clips:
            raise PermissionError(errno.EACCES, "Permission denied", "a source file")
            yield


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("loses", "must keep their order"),
        ("ends_early", "returned nothing"),
        ("swaps", "must keep their order"),
        ("doubles", "the stage did not get"),
        ("forgets", "field 'mp4' goes into clips-000000.tar and must be bytes"),
        ("invents_a_code", "'too_shrt' is no ledger code; did you mean 'too_short'"),
        ("raises_for_a_clip", "at clip .*MediaError: no_audio"),
        ("is_full", "no space left"),
        ("cannot_read", "PermissionError.*a source file"),
    ],
)
def test_a_stage_that_breaks_its_promise_stops_the_run(way: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=f"(?s){message}"):
        do(fake_run(tmp_path, made=recipe(cut=Wrong(way=way))))

    assert nothing_half_visible(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Unopened(Cut):
    """A stage whose weights are broken."""

    def open(self, context: Context) -> Work:
        raise KeyError("layer.0.weight")


def test_a_stage_that_does_not_open_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"stage 'cut' did not open: KeyError"):
        do(fake_run(tmp_path, made=recipe(cut=Unopened())))


def test_a_full_disk_ends_clearly_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = shards._add, []

    def full(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_add", full)
        with pytest.raises(PipelineError, match="no space left") as stopped:
            do(fake_run(tmp_path / "out"))

    assert "it goes on where it stopped" in str(stopped.value)
    assert nothing_half_visible(tmp_path / "out")
    do(fake_run(tmp_path / "out"))
    do(fake_run(tmp_path / "peace"))
    assert results(tmp_path / "out") == results(tmp_path / "peace")


def test_a_file_that_may_not_grow_ends_clearly(tmp_path: Path) -> None:
    """The same for real: the kernel refuses to write beyond a limit."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests.test_pipelines.run.test_execute import do;"
        "from tests.support.fake_stages import *; from uniform.errors import PipelineError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: do(fake_run(Path(sys.argv[1]), made=recipe(cut=Cut(size=9000))))\n"
        "except PipelineError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )

    assert "no space left (File too large)" in run.stdout, run.stderr
    assert nothing_half_visible(tmp_path)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(PipelineError, match=r"cannot be written .*choose another --out|Choose another --out"):
        do(fake_run(tmp_path / "file" / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)

    with pytest.raises(PipelineError, match="cannot be written"):
        do(fake_run(out))


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    do(fake_run(tmp_path), until="cut")
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(PipelineError, match=rf"another run is writing to this folder \(process {os.getpid()} on "):
            do(fake_run(tmp_path))
        assert other.stdin is not None
        other.stdin.close()

    do(fake_run(tmp_path))


def test_what_a_dead_process_left_is_swept_away(tmp_path: Path) -> None:
    do(fake_run(tmp_path), until="cut")
    left = [tmp_path / ".tmp-1-clips-000000.tar", tmp_path / "ledger" / "cut" / ".tmp-2-000000-01.parquet"]
    for path in left:
        path.write_bytes(b"half")

    do(fake_run(tmp_path))

    assert not any(path.exists() for path in left)


def test_a_damaged_input_is_found_before_it_is_used(tmp_path: Path) -> None:
    do(fake_run(tmp_path), until="spell")
    shard = tmp_path / "clips-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)

    with pytest.raises(ShardError, match=r"clips-000000.tar: the bytes of .* are damaged"):
        do(fake_run(tmp_path))


def test_a_missing_input_is_named_with_the_way_to_make_it_again(tmp_path: Path) -> None:
    do(fake_run(tmp_path), until="spell")
    before = results(tmp_path)
    (tmp_path / "clips-000001.tar").unlink()

    with pytest.raises(ShardError, match="remove the commit marker of unit 000001 below commits/"):
        do(fake_run(tmp_path))
    (tmp_path / "commits" / "cut" / "000001.json").unlink()
    do(fake_run(tmp_path), until="spell")

    assert {name: results(tmp_path)[name] for name in before} == before


def test_clips_are_read_one_at_a_time(tmp_path: Path) -> None:
    """A stage sees each clip before the next one is read: memory does not grow with the unit."""

    @dataclass(frozen=True, kw_only=True)
    class Watching(Encode):
        def open(self, context: Context) -> Work:
            work = super().open(context)

            def watched(clips: Iterator[Clip]) -> Iterator[Clip]:
                taken = 0

                def counted() -> Iterator[Clip]:
                    nonlocal taken
                    for clip in clips:
                        taken += 1
                        yield clip

                for given, clip in enumerate(work(counted()), start=1):
                    assert taken == given
                    yield clip

            return watched

    assert do(fake_run(tmp_path, made=recipe(unit_clips=20, encode=Watching()))).final.kept > 10
