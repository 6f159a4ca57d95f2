"""Members of archives become files under our own names; whatever else an archive holds stays inside."""

import bz2
import errno
import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.clip import Row
from pipelines.fetching.archive import ArchiveFetcher
from pipelines.fetching.base import FetchError
from pipelines.fetching.store import MediaStore
from pipelines.sources.archive import ArchiveTable, MemberError
from uniform.errors import PipelineError

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="box",
    split="train",
    source_kind="archive",
    source_id="a",
    source_uri="",
    start_ms=0,
    duration_ms=4000,
)
VIDEO = b"\0\0\0\x18ftypmp42" + b"clip" * 1000


def fetcher(folder: Path, largest_bytes: int = 100_000) -> ArchiveFetcher:
    return ArchiveFetcher(MediaStore(folder / "media"), {"box": folder}, largest_bytes)


def code_for(folder: Path, uri: str, largest_bytes: int = 100_000) -> str:
    with pytest.raises(FetchError) as caught:
        fetcher(folder, largest_bytes).fetch(replace(ROW, source_uri=uri))
    assert not list((folder / "media").rglob("*.mp4"))
    return caught.value.code


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w:", link: str | None = None) -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link is not None:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("member", ["fire/a b.mp4", "../../evil.mp4", "/abs.mp4", "étude.mp4", "a#b.mp4"])
def test_a_member_becomes_a_file_of_our_own_name(tmp_path: Path, suffix: str, member: str) -> None:
    path = tmp_path / f"box.{suffix}"
    (write_zip if suffix == "zip" else write_tar)(path, {"other.mp4": b"x", member: VIDEO})

    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=f"box.{suffix}#{member}"))

    assert fetched.path.read_bytes() == VIDEO
    assert fetched.path.is_relative_to(tmp_path / "media")
    assert "evil" not in fetched.path.name


def test_many_members_of_one_archive_are_taken_by_one_worker(tmp_path: Path) -> None:
    write_tar(tmp_path / "box.tar", {f"{n}.mp4": VIDEO + bytes([n]) for n in range(50)})
    one = fetcher(tmp_path)

    for number in (7, 3, 49):
        fetched = one.fetch(replace(ROW, source_uri=f"box.tar#{number}.mp4"))
        assert fetched.path.read_bytes() == VIDEO + bytes([number])


def test_an_archive_that_changes_gives_its_new_member(tmp_path: Path) -> None:
    one = fetcher(tmp_path)
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO})
    one.fetch(replace(ROW, source_uri="box.zip#a.mp4"))
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO + b"new"})

    assert one.fetch(replace(ROW, source_uri="box.zip#a.mp4")).path.read_bytes() == VIDEO + b"new"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_missing_archives_members_and_member_names_have_one_code(tmp_path: Path, suffix: str) -> None:
    (write_zip if suffix == "zip" else write_tar)(tmp_path / f"box.{suffix}", {"a.mp4": VIDEO})

    uris = (f"box.{suffix}#b.mp4", f"box.{suffix}", f"box.{suffix}#", "none.zip#a.mp4")
    assert [code_for(tmp_path, uri) for uri in uris] == ["missing_source"] * 4


def test_an_archive_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO})
    (tmp_path / "inner" / "link.zip").symlink_to(tmp_path / "box.zip")

    assert code_for(tmp_path / "inner", "../box.zip#a.mp4") == "outside_root"
    assert code_for(tmp_path / "inner", "link.zip#a.mp4") == "outside_root"


def test_links_inside_archives_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "box.tar", {"a.mp4": VIDEO}, link="passwd.mp4")
    link = zipfile.ZipInfo("passwd.mp4")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "box.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")

    assert code_for(tmp_path, "box.tar#passwd.mp4") == "outside_root"
    assert code_for(tmp_path, "box.zip#passwd.mp4") == "outside_root"


def test_a_bomb_is_measured_not_believed(tmp_path: Path) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": b"\0" * 5_000_000})
    write_zip(tmp_path / "liar.zip", {"a.mp4": b"\0" * 5_000_000})
    content = bytearray((tmp_path / "liar.zip").read_bytes())
    size = (5_000_000).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(content.replace(size, (5_000).to_bytes(4, "little")))
    with (tmp_path / "box.tar").open("wb") as file:
        info = tarfile.TarInfo("a.mp4")
        info.size = 10 << 30
        file.write(info.tobuf())
        file.truncate((10 << 30) + 2048)  # 10 GB of nothing, on a sparse file

    assert code_for(tmp_path, "box.zip#a.mp4") == "too_large"
    assert code_for(tmp_path, "liar.zip#a.mp4") in ("too_large", "archive_corrupt")
    assert code_for(tmp_path, "box.tar#a.mp4") == "too_large"


def test_damage_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": bytes(range(256)) * 100})
    content = bytearray((tmp_path / "box.zip").read_bytes())
    content[60:80] = b"\xff" * 20
    (tmp_path / "box.zip").write_bytes(content)
    write_tar(tmp_path / "box.tar", {"a.mp4": VIDEO, "b.mp4": VIDEO})
    (tmp_path / "box.tar").write_bytes((tmp_path / "box.tar").read_bytes()[:3000])
    (tmp_path / "no.zip").write_bytes(b"<html>not found</html>" * 100)

    for uri in ("box.zip#a.mp4", "box.tar#a.mp4", "no.zip#a.mp4"):
        assert code_for(tmp_path, uri) == "archive_corrupt"


def test_a_password_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO})
    content = bytearray((tmp_path / "box.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "box.zip").write_bytes(content)

    assert code_for(tmp_path, "box.zip#a.mp4") == "encrypted"


@pytest.mark.parametrize(("mode", "advice"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")])
def test_a_compressed_tar_is_refused_with_advice(tmp_path: Path, mode: str, advice: str) -> None:
    name = f"box.tar.{mode[2:]}"
    write_tar(tmp_path / name, {"a.mp4": VIDEO}, mode)

    with pytest.raises(FetchError, match=f"archive_unsupported.*{advice}"):
        fetcher(tmp_path).fetch(replace(ROW, source_uri=f"{name}#a.mp4"))


def bzip2_zip(path: Path, videos: list[bytes]) -> list[str]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for number, video in enumerate(videos):
            archive.writestr(f"{number}.mp4", video)
    return [f"{number}.mp4" for number in range(len(videos))]


def parquet(path: Path, videos: list[bytes]) -> list[str]:
    columns = {"video": videos, "label": ["fö"] * len(videos)}
    pq.write_table(pa.table(columns), path, row_group_size=2, use_dictionary=False)
    return [f"fö/{number:08d}.mp4" for number in range(len(videos))]


@pytest.mark.parametrize(("name", "write"), [("box.zip", bzip2_zip), ("box.parquet", parquet)])
def test_a_flipped_byte_gives_the_member_or_a_code(
    tmp_path: Path, name: str, write: Callable[[Path, list[bytes]], list[str]]
) -> None:
    chance = random.Random(0)
    videos = [chance.randbytes(300) for _ in range(4)]
    members = write(tmp_path / name, videos)
    whole = (tmp_path / name).read_bytes()
    one, codes = fetcher(tmp_path), set()
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        for member in members:
            try:
                one.fetch(replace(ROW, source_uri=f"{name}#{member}"))
            except FetchError as error:
                codes.add(error.code)

    assert "archive_corrupt" in codes
    assert codes <= {"archive_corrupt", "missing_source", "archive_unsupported", "too_large", "encrypted"}


def test_a_damaged_bzip2_member_costs_itself_alone(tmp_path: Path) -> None:
    members = bzip2_zip(tmp_path / "box.zip", [VIDEO, VIDEO[::-1]])
    content = (tmp_path / "box.zip").read_bytes()
    (tmp_path / "box.zip").write_bytes(content.replace(bz2.compress(VIDEO)[:8], b"BZh9" + b"?" * 4, 1))

    assert code_for(tmp_path, f"box.zip#{members[0]}") == "archive_corrupt"
    assert fetcher(tmp_path).fetch(replace(ROW, source_uri=f"box.zip#{members[1]}")).path.read_bytes() == VIDEO[::-1]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE])
def test_an_archive_that_the_system_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO})

    def fail(*_: object) -> bool:
        raise OSError(number, "refused")

    monkeypatch.setattr("pipelines.sources.archive.zipfile.is_zipfile", fail)
    assert code_for(tmp_path, "box.zip#a.mp4") == "unreadable_source"


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr("pipelines.sources.paths.RootFolder.find", fail)
    assert code_for(tmp_path, "box.zip#a.mp4") == "unreadable_source"


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": VIDEO})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("pipelines.fetching.archive.ArchiveFetcher._table", fail)
    with pytest.raises(PipelineError, match=r"no space left .* Units that were committed are safe"):
        fetcher(tmp_path).fetch(replace(ROW, source_uri="box.zip#a.mp4"))


def test_a_suffix_that_is_not_one_of_media_is_not_kept(tmp_path: Path) -> None:
    write_zip(tmp_path / "box.zip", {f"a.{'x' * 300}": VIDEO})

    assert fetcher(tmp_path).fetch(replace(ROW, source_uri=f"box.zip#a.{'x' * 300}")).path.suffix == ".bin"


def test_the_rows_of_a_unit_decode_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [VIDEO + bytes([number]) for number in range(8)]
    members = parquet(tmp_path / "box.parquet", videos)
    decoded, decode = [], pq.ParquetFile.iter_batches

    def count(self: pq.ParquetFile, *args: object, **kwargs: list[int]) -> object:
        decoded.append(kwargs["row_groups"])
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", count)
    order = [5, 0, 7, 4, 1, 2, 0]
    rows = [replace(ROW, source_uri=f"box.parquet#{members[number]}") for number in order]
    one = fetcher(tmp_path)
    one.expect(rows)

    assert [one.fetch(row).path.read_bytes() for row in rows] == [videos[number] for number in order]
    assert decoded == [[0], [1], [2], [3]]


def test_a_row_group_over_the_limit_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [pa.table({"video": [VIDEO] * rows}) for rows in (20, 2)]
    with pq.ParquetWriter(tmp_path / "box.parquet", tables[0].schema, use_dictionary=False) as writer:
        for table in tables:
            writer.write_table(table)
    monkeypatch.setattr("pipelines.sources.parquet.GROUP_BYTES", 50_000)

    with pytest.raises(FetchError, match=r"archive_unsupported.*20 rows.*write it again with row_group_size=16"):
        fetcher(tmp_path).fetch(replace(ROW, source_uri="box.parquet#00000003.mp4"))
    with pytest.raises(MemberError, match=r"archive_unsupported: box\.parquet: row group 0"):
        list(ArchiveTable(tmp_path / "box.parquet").names())
    assert fetcher(tmp_path).fetch(replace(ROW, source_uri="box.parquet#00000020.mp4")).path.read_bytes() == VIDEO
