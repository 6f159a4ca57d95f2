"""Every documented way to bring one's own data gives clips: the shown manifests, run on small real media."""

import bz2
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifest.build import read_rows
from pipelines.run.job import new_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.sources.archive import ArchiveTable, MemberError
from tests.support.paths import ROOT
from uniform.media.clip_file import write_clip

ADDING = (ROOT / "docs" / "adding_a_dataset.md").read_text()
SHOWN = {text.split('"')[1]: text for text in re.findall(r"^```toml\n(.*?)^```", ADDING, re.DOTALL | re.MULTILINE)}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five seconds of a moving square and a tone."""
    tone = (0.2 * np.sin(2 * np.pi * 440 * np.arange(80_000) / 16_000)).astype(np.float32)
    frames = np.full((85, 64, 96, 3), 30, dtype=np.uint8)
    for number in range(85):
        frames[number, 20:40, number : number + 10] = 200
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_clip(path, frames, tone, 17, 16_000, audio_codec="aac")
    return path.read_bytes()


def local_files(folder: Path, video: bytes) -> None:
    (folder / "2023").mkdir()
    (folder / "2023" / "bach.mp4").write_bytes(video)
    header = "file,from,to,piece,description,split\n"
    (folder / "concerts.csv").write_text(header + '2023/bach.mp4,0:01.5,4.5,fugue,"an organ, loud",test\n')


def zip_archive(folder: Path, video: bytes) -> None:
    with zipfile.ZipFile(folder / "landscape.zip", "w") as archive:
        archive.writestr("set/test/fire crackling/a.mp4", video)


def tars(folder: Path, video: bytes) -> None:
    with tarfile.open(folder / "000.tar", "w") as archive:
        for name, content in (("0001.mp4", video), ("0001.txt", b"an organ, loud")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def parquet(folder: Path, video: bytes) -> None:
    columns = {"video": [{"bytes": video, "path": "x.mp4"}], "label": ["fugue"], "caption": ["an organ, loud"]}
    pq.write_table(pa.table(columns), folder / "clips.parquet")


def bucket(folder: Path, video: bytes) -> None:
    fsspec.filesystem("memory").pipe("/bucket/a.mp4", video)
    columns = {"uri": ["memory://bucket/a.mp4"], "start_ms": [500], "duration_ms": [4_000], "tags": [["organ", "loud"]]}
    pq.write_table(pa.table(columns), folder / "bucket.parquet")


@pytest.mark.parametrize(
    ("name", "make", "labels", "caption"),
    [
        ("concerts", local_files, ("fugue",), "an organ, loud"),
        ("landscape_archive", zip_archive, ("fire crackling",), "fire crackling"),
        ("webdataset", tars, (), "an organ, loud"),
        ("parquet_videos", parquet, ("fugue",), "an organ, loud"),
        ("bucket", bucket, ("organ", "loud"), None),
    ],
)
def test_a_shown_manifest_gives_clips(
    tmp_path: Path,
    video: bytes,
    name: str,
    make: Callable[[Path, bytes], None],
    labels: tuple[str, ...],
    caption: str | None,
) -> None:
    make(tmp_path, video)
    (tmp_path / "own.toml").write_text(re.sub(r'^root = ".*"$', 'root = "."', SHOWN[name], flags=re.MULTILINE))

    run = new_run([tmp_path / "own.toml"], "toy", tmp_path / "run")
    result = run_pipeline(run, InlineBackend(), LogListener(), until="check")

    (row,) = read_rows(tmp_path / "run" / "manifest.parquet")
    assert result.final.codes == {"ok": 1}
    assert (row.labels, row.caption) == (labels, caption)


def damaged_zip(folder: Path, video: bytes) -> None:
    with zipfile.ZipFile(folder / "landscape.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"set/train/fire/{name}.mp4", video)
    content = (folder / "landscape.zip").read_bytes()
    (folder / "landscape.zip").write_bytes(content.replace(bz2.compress(video)[:10], b"BZh9" + b"?" * 6, 1))


def damaged_parquet(folder: Path, video: bytes) -> None:
    columns = {"video": [video] * 3, "label": ["fugue"] * 3, "caption": ["an organ, loud"] * 3}
    path = folder / "clips.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1, use_dictionary=False)
    page = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[page : page + 20] = b"\xff" * 20
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make"), [("landscape_archive", damaged_zip), ("parquet_videos", damaged_parquet)], ids=["zip", "parquet"]
)
def test_a_damaged_member_has_its_code_and_the_others_stay(
    tmp_path: Path, video: bytes, name: str, make: Callable[[Path, bytes], None]
) -> None:
    make(tmp_path, video)
    (tmp_path / "own.toml").write_text(re.sub(r'^root = ".*"$', 'root = "."', SHOWN[name], flags=re.MULTILINE))

    result = run_pipeline(
        new_run([tmp_path / "own.toml"], "toy", tmp_path / "run"), InlineBackend(), LogListener(), until="check"
    )

    assert result.final.codes == {"archive_corrupt": 1, "ok": 2}


def test_videos_in_parquet_are_found_row_by_row_over_row_groups(tmp_path: Path) -> None:
    videos = [f"video {number}".encode() for number in range(50)]
    labels = ["../x" if number == 7 else "a/b" for number in range(50)]
    pq.write_table(pa.table({"mp4": videos, "class": labels}), tmp_path / "a.parquet", row_group_size=20)
    table = ArchiveTable(tmp_path / "a.parquet")
    names = list(table.names())

    assert [table.open(name, 100).read() for name in names] == videos
    assert (names[0], names[7]) == ("a b/00000000.mp4", "x/00000007.mp4")


def test_a_parquet_file_without_videos_or_damaged_or_a_row_that_is_not_there_has_a_code(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["https://a.org"]}), tmp_path / "urls.parquet")
    pq.write_table(pa.table({"mp4": [b"123456"]}), tmp_path / "one.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "one.parquet").read_bytes()[:40])
    one = ArchiveTable(tmp_path / "one.parquet")
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: ArchiveTable(tmp_path / "urls.parquet"), "archive_unsupported"),
        (lambda: ArchiveTable(tmp_path / "cut.parquet"), "archive_corrupt"),
        (lambda: one.open("00000001.mp4", 100), "missing_source"),
        (lambda: one.open("a.mp4", 100), "missing_source"),
        (lambda: one.open("00000000.mp4", 5), "too_large"),
    ]

    for attempt, code in attempts:
        with pytest.raises(MemberError) as caught:
            attempt()
        assert caught.value.code == code
