"""The TOML of a dataset, local files below its root, and the table of clips."""

import io
import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.clip import Row
from pipelines.manifest.build import (
    build_rows,
    clips_of,
    find_manifest,
    inspect,
    read_manifest,
    read_rows,
    write_parquet,
)
from uniform.errors import ConfigError, ManifestError

FOLDER = 'name = "own"\nroot = "videos"\n[listing]\nglob = ["**/*.mp4"]\n'
LISTED = 'name = "own"\nroot = "videos"\n[listing]\nfile = "own.csv"\n[listing.columns]\nsource_uri = "path"\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "videos" / "dog").mkdir(parents=True)
    (tmp_path / "videos" / "dog" / "a.mp4").write_bytes(b"a")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"b")
    (tmp_path / "own.toml").write_text(LISTED)
    return tmp_path


def rows_listed(home: Path, *paths: str) -> list[Row]:
    (home / "own.csv").write_text("\n".join(["path", *(f'"{path}"' for path in paths)]) + "\n")
    return build_rows(read_manifest(home / "own.toml"))


def test_a_folder_of_videos_is_a_data_set(home: Path) -> None:
    (home / "own.toml").write_text(FOLDER + '[listing.columns]\nlabels = "folder"\ncaption = "sidecar"\n')
    (home / "videos" / "b.txt").write_text("a bee\n")
    (home / "videos" / ".hidden.mp4").write_bytes(b"x")

    rows = build_rows(read_manifest(home / "own.toml"))

    assert [(row.source_uri, row.labels, row.caption, row.duration_ms) for row in rows] == [
        ("b.mp4", (), "a bee", 4000),
        ("dog/a.mp4", ("dog",), None, 4000),
    ]


def test_media_that_no_pattern_matches_is_reported_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "own.toml").write_text(FOLDER)
    for name in ("dog/IMG_0003.MP4", "z.mov", "notes.txt", ".hidden.mov"):
        (home / "videos" / name).write_bytes(b"x")

    manifest = read_manifest(home / "own.toml")
    (warning,) = inspect(manifest).problems.warnings
    message = f"2 media files below {home / 'videos'} match no pattern; the first is 'dog/IMG_0003.MP4'"

    assert warning.found == message
    assert warning.fix.endswith('add "**/*.MP4" to listing.glob for them.')
    assert len(build_rows(manifest)) == 2
    assert [message in record.getMessage() for record in caplog.records] == [True]


def test_a_folder_whose_media_all_match_gives_no_warning(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "own.toml").write_text(FOLDER + 'leave_out = ["b.mp4"]\n')

    assert [row.source_uri for row in build_rows(read_manifest(home / "own.toml"))] == ["dog/a.mp4"]
    assert not caplog.records


def test_the_order_of_a_folder_does_not_depend_on_the_disk(home: Path) -> None:
    for name in ("Z.mp4", "é.mp4", "10.mp4", "9.mp4"):
        (home / "videos" / name).write_bytes(b"x")
    (home / "own.toml").write_text(FOLDER)

    names = [row.source_uri for row in build_rows(read_manifest(home / "own.toml"))]

    assert names == sorted(names)


def test_a_file_name_that_is_not_utf_8_is_left_out_with_a_count(home: Path) -> None:
    (home / "own.toml").write_text(FOLDER)
    Path(os.fsdecode(os.fsencode(home / "videos") + b"/caf\xe9.mp4")).write_bytes(b"x")

    built = inspect(read_manifest(home / "own.toml"))

    assert [row.source_uri for row in built.rows] == ["b.mp4", "dog/a.mp4"]
    assert built.problems.dropped == {"bad_name": 1}
    (warning,) = built.problems.warnings
    assert "1 name that holds control characters or is not UTF-8" in warning.found
    str(warning).encode()


def test_a_folder_without_a_match_is_refused(home: Path) -> None:
    (home / "own.toml").write_text(FOLDER.replace("mp4", "mkv"))

    with pytest.raises(ManifestError, match=r"no file that matches \*\*/\*\.mkv"):
        build_rows(read_manifest(home / "own.toml"))


@pytest.mark.parametrize(
    "path", ["../own.csv", "dog/../../own.csv", "/etc/passwd", "C:/a.mp4", "~/a.mp4", "dog\\a.mp4", "..", "a\tb.mp4"]
)
def test_a_path_outside_the_root_is_refused(home: Path, path: str) -> None:
    with pytest.raises(ManifestError, match=r"own\.csv:2: column 'path'"):
        rows_listed(home, path)


@pytest.mark.parametrize("link", ["link.mp4", "linked/secret.mp4"])
def test_a_link_that_leaves_the_root_is_refused(home: Path, link: str) -> None:
    (home / "outside").mkdir()
    (home / "outside" / "secret.mp4").write_bytes(b"s")
    (home / "videos" / "link.mp4").symlink_to(home / "outside" / "secret.mp4")
    (home / "videos" / "linked").symlink_to(home / "outside")

    with pytest.raises(ManifestError, match="link that leads out of"):
        rows_listed(home, link)


def test_a_link_that_stays_inside_is_followed(home: Path) -> None:
    (home / "videos" / "link.mp4").symlink_to(home / "videos" / "b.mp4")

    assert len(rows_listed(home, "link.mp4")) == 1


@pytest.mark.parametrize(("on_disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_an_accent_is_found_in_either_spelling_and_gives_one_id(home: Path, on_disk: str, listed: str) -> None:
    (home / "videos" / unicodedata.normalize(on_disk, "étude 日本.mp4")).write_bytes(b"x")

    (row,) = rows_listed(home, unicodedata.normalize(listed, "étude 日本.mp4"))

    assert row.source_id == unicodedata.normalize("NFC", "étude 日本.mp4")
    assert inspect(read_manifest(home / "own.toml")).problems.warning_count == 0


def test_a_missing_file_is_a_warning_with_its_line(home: Path) -> None:
    rows_listed(home, "b.mp4", "c.mp4")

    problems = inspect(read_manifest(home / "own.toml")).problems

    assert [problem.place for problem in problems.warnings] == [f"{home / 'own.csv'}:3"]


def test_the_same_rows_give_the_same_bytes_and_come_back(home: Path) -> None:
    row = rows_listed(home, "b.mp4")[0]
    full = Row(
        **{
            **{name: getattr(row, name) for name in Row.__dataclass_fields__},
            "clip_id": "0" * 16,
            "labels": ("a", "b"),
            "caption": "c",
            "caption_origin": "given",
            "expected_digest": "d" * 64,
            "license": "CC0",
            "extra": {"z": "1", "a": "2"},
        }
    )
    write_parquet([row, full] * 10_000, home / "one.parquet")
    write_parquet(iter([row, full] * 10_000), home / "two.parquet")

    assert (home / "one.parquet").read_bytes() == (home / "two.parquet").read_bytes()
    assert read_rows(home / "one.parquet") == [row, full] * 10_000


def test_the_table_is_whole_or_not_there(home: Path) -> None:
    row = rows_listed(home, "b.mp4")[0]
    write_parquet([row], home / "clips.parquet")
    before = (home / "clips.parquet").read_bytes()

    def broken() -> Iterator[Row]:
        yield row
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_parquet(broken(), home / "clips.parquet")
    assert (home / "clips.parquet").read_bytes() == before
    assert not list(home.glob(".tmp-*"))


def test_a_table_of_another_form_is_refused(home: Path) -> None:
    pq.write_table(pa.table({"clip_id": ["a"]}), home / "clips.parquet")

    with pytest.raises(ManifestError, match="its columns are clip_id"):
        read_rows(home / "clips.parquet")
    (home / "clips.parquet").write_bytes(b"no table")
    with pytest.raises(ManifestError, match="not a manifest table"):
        read_rows(home / "clips.parquet")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file =", "fil =", r"own\.toml:4: unknown key 'listing\.fil'; did you mean 'file'"),
        ("source_uri", "sorce_uri", "did you mean 'source_uri'"),
        ('"own"', '"Own!"', "lower case letters"),
        ('root = "videos"', 'kind = "locl"', "did you mean 'local'"),
        ('root = "videos"', 'kind = "youtube"', "columns.source_id is missing"),
        ('file = "own.csv"', 'file = "own.csv"\nencoding = "utf-88"', "which is no text encoding"),
        ('file = "own.csv"', 'file = "own.csv"\nduration_s = 0', "listing.duration_s 0; they must be"),
        ('file = "own.csv"', 'glob = ["../*.mp4"]', "leaves the dataset's root"),
        ('file = "own.csv"', 'glob = ["*.mp4"]\nextra.x = "foldr"', "did you mean 'folder'"),
        ('"path"', '"{path.__class__}"', "not plain"),
        ('"path"', '"{path!r}"', "not plain"),
        ('"path"', '"{path"', "write a column's name in braces"),
        ('file = "own.csv"', 'file = "own.csv"\nderive.path = "("', "not a regular expression"),
        ('file = "own.csv"', 'file = "own.csv"\nderive.path = "x"', "no named group"),
        ('"path"', '"path"\nstart_s = "a"\nstart_ms = "b"', "both start_s and start_ms"),
    ],
)
def test_a_mistake_in_the_toml_is_named_with_its_remedy(home: Path, old: str, new: str, message: str) -> None:
    assert old in LISTED
    (home / "own.toml").write_text(LISTED.replace(old, new, 1))

    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(home / "own.toml")
    assert "own.toml" in str(caught.value)


def test_a_root_that_is_not_there_is_named(home: Path) -> None:
    (home / "own.toml").write_text(LISTED.replace("videos", "vids"))
    (home / "own.csv").write_text("path\nb.mp4\n")

    with pytest.raises(ManifestError, match=r"its root .*vids is not a folder"):
        build_rows(read_manifest(home / "own.toml"))


def test_an_unknown_name_lists_what_is_near() -> None:
    with pytest.raises(ManifestError, match="'no_such_data_set' is neither a TOML file nor"):
        find_manifest("no_such_data_set")


def test_the_members_of_an_archive_are_a_data_set(home: Path) -> None:
    with zipfile.ZipFile(home / "videos" / "box.zip", "w") as archive:
        for name in ("train/fire/1.mp4", "train/rain/2.MP4", "test/rain/3.webm", "train/fire/1.txt", "__MACOSX/1.mp4"):
            archive.writestr(name, f"text of {name}\n")
    (home / "own.toml").write_text(
        'name = "own"\nkind = "archive"\nroot = "videos"\n'
        '[listing]\nglob = ["*.zip"]\nderive.path = ".*#(?P<set>[^/]+)/.*"\n'
        'columns = { labels = "folder", split = "set", caption = "sidecar" }\n'
    )

    rows = build_rows(read_manifest(home / "own.toml"))

    assert [(row.source_uri, row.split, row.labels, row.caption) for row in rows] == [
        ("box.zip#test/rain/3.webm", "test", ("rain",), None),
        ("box.zip#train/fire/1.mp4", "train", ("fire",), "text of train/fire/1.txt"),
        ("box.zip#train/rain/2.MP4", "train", ("rain",), None),
    ]


def test_members_are_chosen_by_a_pattern_behind_the_archive(home: Path) -> None:
    with tarfile.open(home / "videos" / "box.tar", "w") as archive:
        for name in ("a/1.mp4", "a/deep/2.mp4", "b/3.mp4"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    (home / "own.toml").write_text(
        'name = "own"\nkind = "archive"\nroot = "videos"\n[listing]\nglob = ["box.tar#a/*.mp4"]\n'
    )

    rows = build_rows(read_manifest(home / "own.toml"))

    assert [row.source_uri for row in rows] == ["box.tar#a/1.mp4", "box.tar#a/deep/2.mp4"]


def test_a_broken_archive_is_named(home: Path) -> None:
    (home / "videos" / "box.zip").write_bytes(b"<html>gone</html>")
    (home / "own.toml").write_text('name = "own"\nkind = "archive"\nroot = "videos"\n[listing]\nglob = ["*.zip"]\n')

    with pytest.raises(ManifestError, match=r"box\.zip: cannot be read as an archive"):
        build_rows(read_manifest(home / "own.toml"))


def test_a_label_that_is_not_utf_8_is_damage(home: Path) -> None:
    labels = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"video": [b"x"], "label": labels}), home / "videos" / "a.parquet")
    (home / "own.toml").write_text('name = "own"\nkind = "archive"\nroot = "videos"\n[listing]\nglob = ["*.parquet"]\n')

    with pytest.raises(ManifestError, match=r"a\.parquet: cannot be read as an archive: archive_corrupt"):
        build_rows(read_manifest(home / "own.toml"))


def test_a_table_stands_for_its_manifest_where_its_files_are_named(home: Path) -> None:
    rows = rows_listed(home, "b.mp4", "dog/a.mp4")
    write_parquet(rows[:1], home / "some.parquet")

    assert clips_of(home / "own.toml") == (rows, {"own": home / "videos"})
    assert clips_of(home / "some.parquet", root=home / "videos") == (rows[:1], {"own": home / "videos"})
    with pytest.raises(ManifestError, match=r"Give their folder by --root"):
        clips_of(home / "some.parquet")
    with pytest.raises(ManifestError, match=r"--listing goes with a manifest"):
        clips_of(home / "some.parquet", home / "own.csv")


def test_an_empty_table_is_refused(home: Path) -> None:
    write_parquet([], home / "none.parquet")

    with pytest.raises(ManifestError, match="holds no clip"):
        clips_of(home / "none.parquet")
