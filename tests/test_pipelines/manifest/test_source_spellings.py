"""One source under several spellings: split overlaps are found, and clip ids stay as they are."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.manifest.build import Built, inspect, read_manifest
from pipelines.manifest.cross_dataset_duplicates import MARK, mark_cross_dataset_duplicates
from pipelines.manifest.identity import normalised
from pipelines.manifest.set_operations import overlapping, shared_between
from pipelines.run.digest_overlaps import digest_overlap_warnings
from pipelines.run.job import new_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.paths import ROOT

LOCAL = 'name = "own"\nroot = "{root}"\n[listing]\nfile = "own.csv"\n'
COLUMNS = '[listing.columns]\nsource_uri = "file"\nsplit = "split"\n'


def built(folder: Path, first: str, second: str, head: str = LOCAL.format(root=".")) -> Built:
    (folder / "own.csv").write_text(f"file,split\n{first},train\n{second},test\n")
    (folder / "own.toml").write_text(head + COLUMNS)
    return inspect(read_manifest(folder / "own.toml"))


def test_the_case_of_a_dot_before_a_path_is_a_split_overlap(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "own.csv").write_bytes((ROOT / "tests/data/cases/manifest/leak_dot_slash.csv").read_bytes())
    (tmp_path / "own.toml").write_text(LOCAL.format(root=".") + COLUMNS)

    (error,) = inspect(read_manifest(tmp_path / "own.toml")).problems.errors

    assert "no time of a source in two splits" in error.wanted


@pytest.mark.parametrize(
    ("first", "second"), [("./x/a.mp4", "x/a.mp4"), ("x//a.mp4", "x/./a.mp4"), ("link.mp4", "x/a.mp4")]
)
def test_spellings_and_links_of_one_file_are_one_source(tmp_path: Path, first: str, second: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.mp4").write_bytes(b"a")
    (tmp_path / "link.mp4").symlink_to("x/a.mp4")

    assert built(tmp_path, first, second).problems.error_count == 1


def test_hard_links_and_linked_folders_are_one_source_and_copies_are_not(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.mp4").write_bytes(b"a")
    (tmp_path / "copy.mp4").write_bytes(b"a")
    os.link(tmp_path / "x" / "a.mp4", tmp_path / "hard.mp4")
    (tmp_path / "y").symlink_to("x")

    assert built(tmp_path, "hard.mp4", "x/a.mp4").problems.error_count == 1
    assert built(tmp_path, "y/a.mp4", "hard.mp4").problems.error_count == 1
    assert built(tmp_path, "copy.mp4", "hard.mp4").problems.error_count == 0


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("http", "http://Host.example:80/a.mp4", "http://host.example/a.mp4"),
        ("http", "https://host.example/a.mp4#t=5", "https://host.example:443/a.mp4"),
        ("http", "http://host.example/%7Ea/%c3%bc.mp4", "https://host.example/~a/ü.mp4"),
        ("http", "http://host.example./x/../a.mp4?b=%41", "HTTP://HOST.EXAMPLE/a.mp4?b=A"),
        ("fsspec", "S3://Bucket/x//a.mp4", "s3://Bucket/x/a.mp4"),
        ("archive", "t.tar#./a.mp4", "./t.tar#a.mp4"),
    ],
)
def test_spellings_of_one_address_are_one_source(tmp_path: Path, kind: str, first: str, second: str) -> None:
    head = f'name = "own"\nkind = "{kind}"\n[listing]\nfile = "own.csv"\n'
    found = built(tmp_path, first, second, head)

    assert [error.wanted.split(" (")[0] for error in found.problems.errors] == ["no time of a source in two splits"]
    assert [row.source_id for row in found.rows] == [first, second]  # clip ids are of the spelling, as before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://host.example/a.mp4", "http://host.example/A.mp4"),
        ("http://host.example/a.mp4?v=1", "http://host.example/a.mp4?v=2"),
        ("http://host.example:8080/a.mp4", "http://host.example/a.mp4"),
        ("http://host.example/a%2Fb.mp4", "http://host.example/a/b.mp4"),
        ("s3://Bucket/a.mp4", "s3://bucket/a.mp4"),
        ("a.mp4", "b/a.mp4"),
    ],
)
def test_other_sources_stay_others(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


def test_two_spellings_within_a_split_are_kept_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "own.csv").write_text("file,split\n./a.mp4,train\na.mp4,train\n")
    (tmp_path / "own.toml").write_text(LOCAL.format(root=".") + COLUMNS)

    found = inspect(read_manifest(tmp_path / "own.toml"))

    assert len({row.clip_id for row in found.rows}) == 2
    assert "1 clips that overlap another of the same split" in found.problems.warnings[0].found


def test_datasets_are_compared_by_sources_under_any_spelling(tmp_path: Path) -> None:
    head = 'name = "own"\nkind = "http"\n[listing]\nfile = "own.csv"\non_leak = "warn"\n'
    rows = built(tmp_path, "http://h.example/a.mp4", "http://H.example/b.mp4", head).rows
    other = [replace(row, dataset="b", source_uri=row.source_uri.replace("http:", "https:")) for row in rows]
    other = [replace(row, source_id=row.source_uri, split="test") for row in other]

    assert overlapping(rows, other) == [True, True]
    assert [one.first_clips for one in shared_between([*rows, *other])] == [1, 1]
    assert sum(MARK in row.extra for row in mark_cross_dataset_duplicates([*rows, *other])) == 2


def test_equal_bytes_in_two_splits_are_reported_after_fetching(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in (("a.mp4", b"one"), ("copy.mp4", b"one"), ("c.mp4", b"two")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "own.csv").write_text("file,split\na.mp4,train\ncopy.mp4,test\nc.mp4,test\n")
    (tmp_path / "own.toml").write_text(LOCAL.format(root=".") + COLUMNS)
    run = new_run([tmp_path / "own.toml"], "toy", tmp_path / "run")

    run_pipeline(run, InlineBackend(), LogListener(), until="fetch_media")

    (line,) = [record.getMessage() for record in caplog.records if "same bytes" in record.getMessage()]
    assert "1 split overlaps" in line
    assert "'copy.mp4' at 0 s in 'test'" in line
    step = next(step for step in run.recipe.until("fetch_media") if step.name == "fetch_media")
    assert len(digest_overlap_warnings(run.folder, step, run.units())) == 1


@pytest.mark.skipif(shutil.which("localedef") is None, reason="no program that makes a Latin-1 locale")
def test_names_are_found_under_a_latin_1_locale(tmp_path: Path) -> None:
    name = "en_US.ISO-8859-1"
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / name)], check=False, capture_output=True
    )
    if made.returncode > 1:
        pytest.skip("the sources of locales are not installed")
    (tmp_path / "日é.mp4").write_bytes(b"right")
    code = f"""
import sys; from pathlib import Path; from pipelines.sources.paths import RootFolder
found = RootFolder(Path({str(tmp_path)!r})).find("\\u65e5\\u00e9.mp4")
print(sys.getfilesystemencoding(), found and found.read_text())
"""
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": name, "PYTHONUTF8": "0"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert shown.split() == ["iso8859-1", "right"]
