"""Archives that state or hold too much, or use a form that is not read, are refused; good members stay readable."""

import io
import struct
import subprocess
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.archive import ArchiveTable, MemberError
from pipelines.sources.parquet_pages import PageSizes
from pipelines.sources.parquet_text import TEXT_BYTES, text_batches
from pipelines.sources.tar import RECORD_BYTES

LARGEST = 1 << 30


def code(path: Path, member: str = "") -> str:
    """The code that opening an archive, listing it and reading a member end with."""

    def read() -> None:
        table = ArchiveTable(path)
        names = list(table.names())
        table.open(member or names[0], LARGEST).read()

    with pytest.raises(MemberError) as caught:
        read()
    return caught.value.code


@pytest.mark.parametrize("form", ["gnu", "pax", "oldgnu"])
def test_a_sparse_member_is_refused_and_the_others_are_right(tmp_path: Path, form: str) -> None:
    with (tmp_path / "a.mp4").open("wb") as file:
        for place in range(40):
            file.seek(place * 100_000)
            file.write(b"data" * 1_024)
    (tmp_path / "b.mp4").write_bytes(b"whole" * 1_000)
    arguments = ["tar", "-S", f"--format={form}", "-cf", "box.tar", "a.mp4", "b.mp4"]
    subprocess.run(arguments, cwd=tmp_path, check=True)
    table = ArchiveTable(tmp_path / "box.tar")

    assert list(table.names()) == ["b.mp4"]
    assert table.open("b.mp4", LARGEST).read() == b"whole" * 1_000
    assert code(tmp_path / "box.tar", "a.mp4") == "archive_unsupported"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_plain_form_gives_names_and_bytes(tmp_path: Path, form: int) -> None:
    names = ["a.mp4", f"{'deep/' * 18}b.mp4", *([f"{'é' * 200}.mp4"] if form != tarfile.USTAR_FORMAT else [])]
    with tarfile.open(tmp_path / "box.tar", "w", format=form) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 700 * number + 1
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    table = ArchiveTable(tmp_path / "box.tar")

    assert list(table.names()) == names
    assert [table.open(name, LARGEST).read() for name in names] == [
        bytes([number]) * (700 * number + 1) for number in range(len(names))
    ]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_record_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 3 << 30
    with (tmp_path / "box.tar").open("wb") as file:
        file.write(info.tobuf(format=tarfile.GNU_FORMAT))
        file.truncate(4 << 30)
    begin_s = time.monotonic()

    assert code(tmp_path / "box.tar") == "archive_corrupt"
    assert time.monotonic() - begin_s < 5
    assert info.size > RECORD_BYTES


def test_a_part_of_several_volumes_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.mp4")
    info.type, info.size = b"M", 600
    (tmp_path / "box.tar").write_bytes(info.tobuf(format=tarfile.GNU_FORMAT) + b"x" * 1_024 + b"\0" * 1_024)

    assert code(tmp_path / "box.tar", "a.mp4") == "archive_unsupported"


def overlapping_zip(path: Path, members: int, size: int) -> None:
    """A zip whose members all stand for the same compressed bytes, as zip bombs do."""
    packed = zlib.compress(b"\0" * size)[2:-4]
    crc = zlib.crc32(b"\0" * size)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(packed), size, 5, 0) + b"a.mp4"
    content, table = local + packed, b""
    for number in range(members):
        name = b"a.mp4" if number == 0 else b"%05d" % number
        fields = (20, 20, 0, 8, 0, 33, crc, len(packed), size, 5, 0, 0, 0, 0, 0, 0)
        table += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, members, members, len(table), len(content), 0)
    path.write_bytes(content + table + end)


def test_overlapping_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    overlapping_zip(tmp_path / "box.zip", 40, 1_000_000)
    overlapping_zip(tmp_path / "one.zip", 1, 1_000)

    assert code(tmp_path / "box.zip") == "archive_unsupported"
    assert ArchiveTable(tmp_path / "one.zip").open("a.mp4", LARGEST).read() == b"\0" * 1_000


def test_the_sum_of_a_zip_is_bounded_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "box.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(10):
            archive.writestr(f"{number}.mp4", b"\0" * 1_000_000)
    assert len(list(ArchiveTable(tmp_path / "box.zip").names())) == 10
    monkeypatch.setattr("pipelines.sources.zip.ALLOWANCE_BYTES", 1_000_000)

    assert code(tmp_path / "box.zip") == "archive_unsupported"


def test_a_zip_with_an_endless_table_of_contents_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "box.zip", "w") as archive:
        archive.writestr("a.mp4", b"x")
    monkeypatch.setattr("pipelines.sources.zip.TABLE_BYTES", 10)

    assert code(tmp_path / "box.zip") == "archive_unsupported"


def test_an_unknown_compression_is_unsupported_not_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "box.zip", "w") as archive:
        archive.writestr("a.mp4", b"x" * 100)
    content = bytearray((tmp_path / "box.zip").read_bytes())
    content[8:10] = content[content.index(b"PK\1\2") + 10 : content.index(b"PK\1\2") + 12] = b"\x61\0"  # WavPack
    (tmp_path / "box.zip").write_bytes(content)

    assert code(tmp_path / "box.zip") == "archive_unsupported"


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_page_sizes_agree_with_an_honest_footer(tmp_path: Path, compression: str, version: str) -> None:
    table = pa.table(
        {
            "video": [{"bytes": bytes([n % 251]) * (n % 700), "path": f"{n}.mp4"} for n in range(3_000)],
            "label": [f"label {n % 7}" for n in range(3_000)],
            "tags": [["a", "b"][: n % 3] for n in range(3_000)],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(
        table, path, row_group_size=1_000, compression=compression, data_page_version=version, data_page_size=20_000
    )
    pages, metadata = PageSizes(path), pq.ParquetFile(path).metadata

    checked = 0
    for group in range(3):
        for number, column in enumerate(pages.columns(group)):
            stated = metadata.row_group(group).column(number)
            found = pages.chunk(group, column)
            assert column == stated.path_in_schema
            assert 0 < stated.total_uncompressed_size - found.total_bytes < 0.3 * stated.total_uncompressed_size + 500
            assert found.largest_page_bytes <= found.total_bytes
            checked += 1
    assert checked == 12


def varint(value: int, length: int) -> bytes:
    """A zigzag number of Thrift, padded to `length` bytes."""
    value *= 2
    parts = [(value >> 7 * n) & 127 for n in range(length)]
    return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])


def test_a_footer_that_states_less_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": [b"\0" * 5_000_000]}), path, compression="zstd")
    size = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    content = path.read_bytes()
    path.write_bytes(content.replace(varint(size, 4), varint(1_000, 4)))
    monkeypatch.setattr("pipelines.sources.parquet.GROUP_BYTES", 1_000_000)

    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size == 1_000
    assert code(path) == "archive_unsupported"


def test_a_dictionary_of_videos_is_bounded_by_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": [b"x" * 100_000] * 50}), path)
    size = path.stat().st_size
    monkeypatch.setattr("pipelines.sources.zip.ALLOWANCE_BYTES", 600_000 - 20 * size)
    table = ArchiveTable(path)
    names = list(table.names())
    for name in names[:6]:
        table.open(name, LARGEST)

    with pytest.raises(MemberError, match=r"archive_unsupported.*more than"):
        table.open(names[40], LARGEST)


def test_texts_in_a_dictionary_are_cut_before_they_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    indices = pa.array([0] * 4_096, pa.int32())
    bomb = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 8_000_000]))
    pq.write_table(pa.table({"c": bomb, "l": [["y" * 100]] * 4_096}), path, compression="zstd", store_schema=False)
    before = pa.total_allocated_bytes()

    lengths = set()
    for batch in text_batches(path, ["c", "l"], PageSizes(path)):
        assert batch.nbytes < 1_000_000
        lengths.add(len(batch.column(0)[0].as_py()))

    assert path.stat().st_size < 50_000
    assert lengths == {TEXT_BYTES + 1}
    assert pa.total_allocated_bytes() - before < 100_000_000


def test_a_row_that_holds_a_path_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": [{"bytes": None, "path": "x.mp4"}, {"bytes": b"x", "path": "y"}]}), path)
    table = ArchiveTable(path)

    with pytest.raises(MemberError, match=r"row 0 holds the path 'x\.mp4' and no bytes"):
        table.open("00000000.mp4", LARGEST)
    assert table.open("00000001.mp4", LARGEST).read() == b"x"
