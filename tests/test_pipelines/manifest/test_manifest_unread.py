"""What a dataset does not read is counted and named, and one bad item costs itself alone."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipelines.manifest.build import Built, build_rows, inspect, read_manifest
from uniform.errors import ManifestError

FOUND = 'name = "own"\nroot = "videos"\n[listing]\nglob = ["**/*.mp4"]\n'
BOXES = 'name = "own"\nkind = "archive"\nroot = "videos"\n[listing]\nglob = ["*.tar", "*.zip"]\n{more}\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "videos" / "dog").mkdir(parents=True)
    for name in ("a.mp4", "dog/b.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"x")
    return tmp_path


def built(home: Path, text: str = FOUND) -> Built:
    (home / "own.toml").write_text(text)
    return inspect(read_manifest(home / "own.toml"))


def uris(found: Built) -> list[str]:
    return [row.source_uri for row in found.rows]


def warnings(found: Built) -> list[str]:
    return [warning.found for warning in found.problems.warnings]


def test_a_linked_folder_outside_the_root_is_counted_with_its_files(home: Path) -> None:
    (home / "other" / "deep").mkdir(parents=True)
    for name in ("1.mp4", "deep/2.mp4", "notes.txt"):
        (home / "other" / name).write_bytes(b"x")
    (home / "videos" / "more").symlink_to(home / "other")

    found = built(home)

    assert uris(found) == ["a.mp4", "dog/b.mp4"]
    assert warnings(found) == ["1 linked folder leads out of the root; the first is 'more' (2 media files there)"]
    assert found.notices


def test_a_linked_folder_inside_the_root_is_read_once(home: Path) -> None:
    (home / "videos" / ".store").mkdir()
    (home / "videos" / ".store" / "c.mp4").write_bytes(b"x")
    (home / "videos" / "shown").symlink_to(home / "videos" / ".store")
    (home / "videos" / "again").symlink_to(home / "videos" / "dog")
    (home / "videos" / "dog" / "circle").symlink_to(home / "videos")
    (home / "videos" / "self").symlink_to(home / "videos" / "self")

    found = built(home)

    assert uris(found) == ["a.mp4", "dog/b.mp4", "shown/c.mp4"]
    assert warnings(found) == []


def test_names_links_and_pipes_that_are_no_clips_cost_themselves_alone(home: Path) -> None:
    videos = home / "videos"
    for name in (b"one\nline.mp4", b"tab\t.mp4", b"caf\xe9.mp4"):
        Path(os.fsdecode(os.fsencode(videos) + b"/" + name)).write_bytes(b"x")
    (videos / "gone.mp4").symlink_to(videos / "nothing.mp4")
    (home / "outside.mp4").write_bytes(b"x")
    (videos / "out.mp4").symlink_to(home / "outside.mp4")
    os.mkfifo(videos / "pipe.mp4")

    found = built(home)

    assert uris(found) == ["a.mp4", "dog/b.mp4"]
    assert found.problems.error_count == 0
    assert {code: count for code, count in found.problems.dropped.items() if count} == {
        "bad_name": 3,
        "outside_root": 1,
    }
    assert [text.split(";")[0] for text in warnings(found)] == [
        "3 names that hold control characters or are not UTF-8",
        "1 file is or passes a link that leads out of the root",
        "1 link to a missing file",
        "1 pipe, device or socket",
    ]


def write_tar(path: Path, members: dict[str, bytes], **links: str) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(f"{name}.mp4")
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)


def test_links_and_upward_names_of_archives_are_counted_or_read(home: Path) -> None:
    members = {"d/a.mp4": b"x", "../up.mp4": b"x", "./d/b.mp4": b"x"}
    write_tar(home / "videos" / "box.tar", members, link="d/a.mp4", out="/etc/passwd", gone="d/none.mp4")

    found = built(home, BOXES.format(more=""))

    assert uris(found) == ["box.tar#d/a.mp4", "box.tar#d/b.mp4", "box.tar#link.mp4"]
    assert {code: count for code, count in found.problems.dropped.items() if count} == {
        "refused_member": 2,
        "outside_member": 1,
    }


def test_a_link_in_a_tar_is_the_same_source_in_another_split(home: Path) -> None:
    write_tar(home / "videos" / "box.tar", {"train/a.mp4": b"x"}, **{"test/b": "../train/a.mp4"})
    more = 'derive.path = ".*#(?P<set>[^/]+)/.*"\ncolumns.split = "set"'

    found = built(home, BOXES.format(more=more))

    assert found.problems.error_count == 1
    assert "no time of a source in two splits" in found.problems.errors[0].wanted


@pytest.mark.parametrize(("cut", "note"), [(1_024, "it has no end mark"), (3_000, "no header at byte 2,048")])
def test_a_tar_without_its_end_is_noted(home: Path, cut: int, note: str) -> None:
    path = home / "videos" / "box.tar"
    write_tar(path, {"a.mp4": b"x", "b.mp4": b"x"})
    content = path.read_bytes()
    path.write_bytes(content[:2_048] if cut == 1_024 else content[:2_048] + b"\1" * 952)

    found = built(home, BOXES.format(more=""))

    assert uris(found) == ["box.tar#a.mp4", "box.tar#b.mp4"]
    assert len(warnings(found)) == 1
    assert warnings(found)[0].startswith(note)


def test_a_zip_of_windows_and_names_of_unknown_encoding_are_read_with_a_warning(home: Path) -> None:
    with zipfile.ZipFile(home / "videos" / "box.zip", "w") as archive:
        archive.writestr("train\\dog.mp4", b"x")
        archive.writestr("犬.mp4", b"x")
    content = (home / "videos" / "box.zip").read_bytes()
    name = "犬.mp4".encode()
    content = content.replace(name, "犬".encode("shift_jis").ljust(3, b"_") + b".mp4")
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        begin = content.rindex(mark) + place
        content = content[:begin] + b"\0\0" + content[begin + 2 :]
    (home / "videos" / "box.zip").write_bytes(content)

    found = built(home, BOXES.format(more=""))

    assert len(found.rows) == 2
    assert uris(found)[0] == "box.zip#train/dog.mp4"
    assert warnings(found)[0].startswith("1 names are in an unknown encoding")


def test_texts_that_belong_to_no_clip_are_counted(home: Path) -> None:
    members = {"1.mp4": b"x", "1.json": b'{"caption": "a dog"}', "2.mp4": b"x", "2.json": b"{}", "3.txt": b"x"}
    write_tar(home / "videos" / "box.tar", {**members, "4.a.mp4": b"x", "4.b.mp4": b"x", "4.txt": b"one"})

    found = built(home, BOXES.format(more='columns.caption = "sidecar"'))

    assert [row.caption for row in found.rows] == ["a dog", None, None, None]
    assert [text.split(";")[0] for text in warnings(found)] == [
        "2 texts belong to no clip",
        "1 JSON file beside a clip has no text under caption, text or prompt",
    ]


def test_a_bad_archive_is_left_out_on_request(home: Path) -> None:
    write_tar(home / "videos" / "box.tar", {"a.mp4": b"x"})
    (home / "videos" / "bad.zip").write_bytes(b"<html>")

    with pytest.raises(ManifestError, match=r"bad\.zip"):
        built(home, BOXES.format(more=""))
    found = built(home, BOXES.format(more='on_problem = "drop"'))

    assert uris(found) == ["box.tar#a.mp4"]
    assert found.problems.dropped["bad_archive"] == 1


def test_bad_lines_are_left_out_on_request_with_their_number(home: Path) -> None:
    lines = ["path,start", "a.mp4,0", "../x.mp4,0", "a.mp4,no", "a.mp4,1,2", '"a.mp4', "dog/b.mp4,3"]
    (home / "own.csv").write_text("\n".join(lines[:5] + lines[6:] + lines[5:6]) + "\n")
    text = 'name = "own"\nroot = "videos"\n[listing]\nfile = "own.csv"\n{more}\n'
    text += '[listing.columns]\nsource_uri = "path"\nstart_s = "start"\n'

    assert built(home, text.format(more="")).problems.error_count == 4
    found = built(home, text.format(more='on_problem = "drop"'))

    assert [(row.source_uri, row.start_ms) for row in found.rows] == [("a.mp4", 0), ("dog/b.mp4", 3_000)]
    assert found.problems.error_count == 0
    assert found.problems.dropped == {"bad_line": 4}
    assert len(build_rows(read_manifest(home / "own.toml"))) == 2


def test_a_listing_of_bad_lines_alone_is_an_error(home: Path) -> None:
    (home / "own.csv").write_text("path\n../a.mp4\n")
    text = 'name = "own"\nroot = "videos"\n[listing]\nfile = "own.csv"\non_problem = "drop"\n'

    with pytest.raises(ManifestError, match="1 lines are left out as bad"):
        built(home, text + 'columns.source_uri = "path"\n').problems.raise_if_any("own")
