"""Members of archives become files under our own names; whatever else an archive holds stays inside."""

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.clip import Row
from pipelines.fetching.archive import ArchiveFetcher
from pipelines.fetching.base import FetchError
from pipelines.fetching.store import MediaStore

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
FILM = b"\0\0\0\x18ftypmp42" + b"film" * 1000


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
    (write_zip if suffix == "zip" else write_tar)(path, {"other.mp4": b"x", member: FILM})

    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=f"box.{suffix}#{member}"))

    assert fetched.path.read_bytes() == FILM
    assert fetched.path.is_relative_to(tmp_path / "media")
    assert "evil" not in fetched.path.name


def test_many_members_of_one_archive_are_taken_by_one_worker(tmp_path: Path) -> None:
    write_tar(tmp_path / "box.tar", {f"{n}.mp4": FILM + bytes([n]) for n in range(50)})
    one = fetcher(tmp_path)

    for number in (7, 3, 49):
        fetched = one.fetch(replace(ROW, source_uri=f"box.tar#{number}.mp4"))
        assert fetched.path.read_bytes() == FILM + bytes([number])


def test_an_archive_that_changes_gives_its_new_member(tmp_path: Path) -> None:
    one = fetcher(tmp_path)
    write_zip(tmp_path / "box.zip", {"a.mp4": FILM})
    one.fetch(replace(ROW, source_uri="box.zip#a.mp4"))
    write_zip(tmp_path / "box.zip", {"a.mp4": FILM + b"new"})

    assert one.fetch(replace(ROW, source_uri="box.zip#a.mp4")).path.read_bytes() == FILM + b"new"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_missing_archives_members_and_member_names_have_one_code(tmp_path: Path, suffix: str) -> None:
    (write_zip if suffix == "zip" else write_tar)(tmp_path / f"box.{suffix}", {"a.mp4": FILM})

    uris = (f"box.{suffix}#b.mp4", f"box.{suffix}", f"box.{suffix}#", "none.zip#a.mp4")
    assert [code_for(tmp_path, uri) for uri in uris] == ["missing_source"] * 4


def test_an_archive_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_zip(tmp_path / "box.zip", {"a.mp4": FILM})
    (tmp_path / "inner" / "link.zip").symlink_to(tmp_path / "box.zip")

    assert code_for(tmp_path / "inner", "../box.zip#a.mp4") == "outside_root"
    assert code_for(tmp_path / "inner", "link.zip#a.mp4") == "outside_root"


def test_links_inside_archives_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "box.tar", {"a.mp4": FILM}, link="passwd.mp4")
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
    write_tar(tmp_path / "box.tar", {"a.mp4": FILM, "b.mp4": FILM})
    (tmp_path / "box.tar").write_bytes((tmp_path / "box.tar").read_bytes()[:3000])
    (tmp_path / "no.zip").write_bytes(b"<html>not found</html>" * 100)

    for uri in ("box.zip#a.mp4", "box.tar#a.mp4", "no.zip#a.mp4"):
        assert code_for(tmp_path, uri) == "archive_corrupt"


def test_a_password_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "box.zip", {"a.mp4": FILM})
    content = bytearray((tmp_path / "box.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "box.zip").write_bytes(content)

    assert code_for(tmp_path, "box.zip#a.mp4") == "encrypted"


@pytest.mark.parametrize(("mode", "advice"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")])
def test_a_compressed_tar_is_refused_with_advice(tmp_path: Path, mode: str, advice: str) -> None:
    name = f"box.tar.{mode[2:]}"
    write_tar(tmp_path / name, {"a.mp4": FILM}, mode)

    with pytest.raises(FetchError, match=f"archive_unsupported.*{advice}"):
        fetcher(tmp_path).fetch(replace(ROW, source_uri=f"{name}#a.mp4"))
