"""Inputs of public bug reports, and relatives of them: each gives its right clips, or a problem with its remedy."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.clip import Row
from pipelines.fetching.archive import ArchiveFetcher
from pipelines.fetching.store import MediaStore
from pipelines.manifest.build import Built, build_rows, inspect, read_manifest
from tests.support.paths import ROOT
from uniform.errors import ConfigError, ManifestError

CASES = ROOT / "tests" / "data" / "cases" / "manifest"
ARCHIVE = 'name = "own"\nkind = "archive"\n[listing]\nglob = ["{glob}"]\n[listing.columns]\n'
ARCHIVE += 'labels = "folder"\ncaption = "sidecar"\n'


def built(folder: Path, text: str) -> Built:
    (folder / "own.toml").write_text(text)
    return inspect(read_manifest(folder / "own.toml"))


def archive_rows(folder: Path, name: str) -> list[Row]:
    """Clips of an archive among the cases; each is fetched too."""
    shutil.copy(CASES / name, folder / name)
    (folder / "own.toml").write_text(ARCHIVE.format(glob=name))
    rows = build_rows(read_manifest(folder / "own.toml"))
    fetcher = ArchiveFetcher(MediaStore(folder / "media"), {"own": folder}, 1 << 20)
    fetcher.expect(rows)
    assert [fetcher.fetch(row).size_bytes > 1_000 for row in rows] == [True] * len(rows)
    return rows


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("backslashes.zip", ["backslashes.zip#dog/ok.mp4", "backslashes.zip#train/dog1.mp4"]),
        ("hard_link.tar", ["hard_link.tar#dog/a.mp4", "hard_link.tar#rain/b.mp4"]),
        ("two_tars_in_one_file.tar", ["two_tars_in_one_file.tar#cat/b.mp4", "two_tars_in_one_file.tar#dog/a.mp4"]),
        ("my#set.tar", ["my#set.tar#dog/a.mp4"]),
    ],
)
def test_every_member_of_an_odd_archive_is_a_clip_and_is_fetched(tmp_path: Path, name: str, sources: list[str]) -> None:
    assert [row.source_uri for row in archive_rows(tmp_path, name)] == sources


def test_a_webdataset_key_ends_at_the_first_dot(tmp_path: Path) -> None:
    rows = archive_rows(tmp_path, "webdataset_two_dots.tar")

    assert len(rows) == 1
    assert rows[0].caption


def test_labels_and_captions_of_any_text_type_are_read_from_parquet_files_of_videos(tmp_path: Path) -> None:
    rows = archive_rows(tmp_path, "videos_large_string.parquet")

    assert rows
    assert all(row.labels and row.caption for row in rows)


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        (pa.array(["dog", "dog"], pa.large_string()), ("dog",)),
        (pa.array(["dog", "dog"]).dictionary_encode(), ("dog",)),
        (pa.array([3, 3], pa.int64()), ("3",)),
        (pa.array([["dog", "rain"]] * 2), ("dog, rain",)),
    ],
    ids=["large_string", "dictionary", "integer", "list"],
)
def test_a_label_column_of_another_type_changes_no_clip_id(
    tmp_path: Path, label: pa.Array, labels: tuple[str, ...]
) -> None:
    pq.write_table(pa.table({"video": [b"x" * 2_000] * 2, "label": label}), tmp_path / "a.parquet")

    rows = built(tmp_path, ARCHIVE.format(glob="a.parquet")).rows

    assert [(row.source_uri, row.labels) for row in rows] == [
        ("a.parquet#00000000.mp4", labels),
        ("a.parquet#00000001.mp4", labels),
    ]


def test_a_label_column_that_is_not_read_is_named(tmp_path: Path) -> None:
    label = pa.array([{"name": "dog"}])
    pq.write_table(pa.table({"video": [b"x" * 2_000], "label": label}), tmp_path / "a.parquet")

    (warning,) = built(tmp_path, ARCHIVE.format(glob="a.parquet")).problems.warnings

    assert warning.found.startswith("column 'label' of type struct<name")


LISTED = 'name = "own"\nkind = "http"\n[listing]\nfile = "{file}"\n{more}\n[listing.columns]\nsource_uri = "{uri}"\n'


def listed(folder: Path, columns: dict[str, object], mapped: str, more: str = "") -> Built:
    """A Parquet listing with a column of addresses and the given columns."""
    count = len(next(iter(columns.values())))  # type: ignore[arg-type]
    uris = [f"https://h.example/{number}.mp4" for number in range(count)]
    pq.write_table(pa.table({"uri": uris, **columns}), folder / "l.parquet")
    return built(folder, LISTED.format(file="l.parquet", uri="uri", more=more) + mapped)


def case_listing(folder: Path, name: str, mapped: str) -> Built:
    shutil.copy(CASES / name, folder / name)
    (folder / "a.mp4").write_bytes(b"a")
    (folder / "b.mp4").write_bytes(b"b")
    text = f'name = "own"\n[listing]\nfile = "{name}"\n[listing.columns]\nsource_uri = "file"\n{mapped}'
    return built(folder, text)


def test_a_list_of_captions_gives_its_first_and_keeps_the_others(tmp_path: Path) -> None:
    found = case_listing(tmp_path, "caption_is_a_list.parquet", 'caption = "caption"')

    assert found.problems.error_count == 0
    assert found.rows[0].caption == "a dog"
    assert found.rows[0].extra["more_captions"] == '["dog barks"]'


def test_bytes_are_read_as_utf_8(tmp_path: Path) -> None:
    found = case_listing(tmp_path, "caption_is_bytes.parquet", 'caption = "caption"')

    assert found.rows[0].caption == "a dog"


def test_a_list_as_pandas_prints_it_gives_its_labels(tmp_path: Path) -> None:
    found = case_listing(tmp_path, "labels_python_list.csv", 'labels = "labels"')

    assert [row.labels for row in found.rows] == [("dog", "rain"), ("cat",)]


def test_a_small_float_is_a_start(tmp_path: Path) -> None:
    found = case_listing(tmp_path, "start_1e-05.parquet", 'start_s = "start"')

    assert found.problems.error_count == 0
    assert [row.start_ms for row in found.rows] == [0, 1000]


@pytest.mark.parametrize("start", [-0.0, 1e-05, 0.0])
def test_small_floats_are_starts_in_every_format(tmp_path: Path, start: float) -> None:
    found = listed(tmp_path, {"s": [start]}, 'start_s = "s"')
    (tmp_path / "l.csv").write_text(f"uri,s\nhttps://h.example/a.mp4,{start}\nhttps://h.example/b.mp4,.5\n")
    text = LISTED.format(file="l.csv", uri="uri", more="") + 'start_s = "s"\n'

    assert [row.start_ms for row in found.rows] == [0]
    assert [row.start_ms for row in built(tmp_path, text).rows] == [0, 500]


@pytest.mark.parametrize(
    "cell",
    [
        pa.array([{"short": "a dog"}]),
        pa.array([True]),
        pa.array([1.5]),
        pa.array([b"\xff\xfe\xfd"]),
        pa.array([[["a"]]]),
        pa.array([[{"a": 1}]]),
        pa.array(["{'short': 'a dog'}"]),
        pa.array(["b'a dog'"]),
        pa.array(["a\0dog"]),
        pa.array(["x" * 70_000]),
    ],
    ids=["object", "boolean", "fraction", "not UTF-8", "nested", "objects", "printed", "bytes", "NUL", "long"],
)
def test_a_cell_of_another_type_is_a_problem_with_row_and_remedy(tmp_path: Path, cell: pa.Array) -> None:
    for key in ("caption", "labels"):
        (problem,) = listed(tmp_path, {"c": cell}, f'{key} = "c"').problems.errors

        assert problem.place.endswith("l.parquet:1")
        assert problem.column == "c"
        assert problem.fix


@pytest.mark.parametrize("cell", [None, float("nan")])
def test_null_and_nan_are_empty(tmp_path: Path, cell: object) -> None:
    column = pa.array([cell], pa.float64() if cell is not None else pa.string())
    (row,) = listed(tmp_path, {"c": column}, 'caption = "c"\nlabels = "c"\nlicense = "c"\n').rows

    assert (row.caption, row.labels, row.license, row.caption_origin) == (None, (), None, None)


@pytest.mark.parametrize("text", ["nan", "None", "NaN", "<NA>"])
def test_what_pandas_writes_for_a_gap_is_empty(tmp_path: Path, text: str) -> None:
    (row,) = listed(tmp_path, {"c": [text]}, 'caption = "c"\nlabels = "c"\n').rows

    assert (row.caption, row.labels) == (None, ())


def test_a_template_with_an_empty_cell_is_no_address(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", None]}), tmp_path / "l.parquet")
    found = built(tmp_path, LISTED.format(file="l.parquet", uri="https://h.example/{id}.mp4", more=""))

    assert [row.source_uri for row in found.rows] == ["https://h.example/a.mp4"]
    assert found.problems.error_count == 1


def sidecar(folder: Path, content: bytes, on_problem: str = "error") -> Built:
    (folder / "a.mp4").write_bytes(b"a")
    (folder / "b.mp4").write_bytes(b"b")
    (folder / "a.txt").write_bytes(content)
    text = f'name = "own"\n[listing]\nglob = ["*.mp4"]\non_problem = "{on_problem}"\n'
    return built(folder, text + '[listing.columns]\ncaption = "sidecar"\n')


def test_a_byte_order_mark_decides_utf_16(tmp_path: Path) -> None:
    content = (CASES / "sidecar_utf16.txt").read_bytes()

    assert sidecar(tmp_path, content).rows[0].caption == content.decode("utf-16").strip()


@pytest.mark.parametrize(
    "content",
    [
        (CASES / "sidecar_cp1252.txt").read_bytes(),
        "a dog".encode("utf-16-le"),
        bytes(range(128, 228)),
        b"1\n00:00:01,000 --> 00:00:02,000\na dog\n",
    ],
    ids=["cp1252", "UTF-16 without mark", "random", "subtitles"],
)
def test_a_text_beside_a_clip_that_is_no_caption_is_a_problem_with_its_name(tmp_path: Path, content: bytes) -> None:
    (problem,) = sidecar(tmp_path, content).problems.errors
    dropped = sidecar(tmp_path, content, "drop")

    assert "'a.txt'" in problem.found
    assert [row.source_uri for row in dropped.rows] == ["b.mp4"]
    assert dropped.problems.dropped == {"bad_line": 1}


def test_a_long_text_is_cut_between_characters(tmp_path: Path) -> None:
    (first, _) = sidecar(tmp_path, b"a" + "é".encode() * 40_000).rows

    assert first.caption == "a" + "é" * 32_767


def test_a_duration_that_is_no_number_names_the_file(tmp_path: Path) -> None:
    shutil.copy(CASES / "duration_nan.toml", tmp_path / "own.toml")

    with pytest.raises(ConfigError, match=r"own\.toml.*duration_s nan"):
        read_manifest(tmp_path / "own.toml")


@pytest.mark.parametrize(
    "text",
    [
        'name = "own"\nx = ' + "[" * 100_000,
        'name = "own"\nx = ' + "{b=" * 20_000,
        'name = "own"\nx = ' + "9" * 5_000,
        *(
            f'name = "own"\n[listing]\nfile = "a.csv"\nencoding = "{name}"\ncolumns.source_uri = "a"\n'
            for name in ("zlib_codec", "rot13", "base64", "hex", "unicode_escape", "a\\u0000b", "x" * 1_000)
        ),
        *(
            f'name = "own"\n[listing]\nfile = "a.csv"\n{key} = {value}\ncolumns.source_uri = "a"\n'
            for key in ("start_s", "duration_s")
            for value in ("inf", "-inf", "nan", "1e300")
        ),
        *(
            f'name = "own"\n[listing]\nfile = "a.csv"\nderive.a = "{pattern}"\ncolumns.source_uri = "a"'
            for pattern in ("((a{1000}){1000}){1000}(?P<x>b)", "(" * 900, "(" * 2_000, "(?P<x>a{99999999})")
        ),
        *(
            f'name = "own"\n[listing]\n{line}\ncolumns.source_uri = "path"\n'
            for line in (
                'glob = ["**x.mp4"]',
                'glob = ["./"]',
                'glob = ["a\\u0000.mp4"]',
                'file = "a\\u0000.csv"',
                'file = ""',
                'file = "a.csv"\ndelimiter = "\\n"',
                'file = "a.csv"\nquote = "\\u0000"',
                'file = "a.csv"\nlabel_names = { file = "b.csv", code = -5 }',
            )
        ),
        'name = "own"\nroot = "~nobody_of_this_name/v"\n[listing]\nglob = ["*.mp4"]\n',
        'name = "own"\nroot = "a\\u0000"\n[listing]\nglob = ["*.mp4"]\n',
    ],
    ids=lambda text: text[:70],
)
def test_a_hostile_manifest_is_an_error_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"own\.toml"):
        read_manifest(tmp_path / "own.toml")


def test_a_table_of_label_names_with_an_endless_cell_is_named(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text(f"code,name\n{'9' * 140_000},x\n")
    (tmp_path / "a.csv").write_text("a,b\nhttps://h.example/a.mp4,1\n")
    text = LISTED.format(file="a.csv", uri="a", more='label_names = { file = "names.csv" }') + 'labels = "b"\n'

    with pytest.raises(ManifestError, match=r"names\.csv: the table of label names cannot be read"):
        built(tmp_path, text)


@pytest.mark.parametrize("pattern", ["(?P<x>(a+)+)b", "(?P<x>(a|a)*)b", "(?P<x>(.*a){20})b"])
def test_a_regular_expression_that_fails_at_once_is_a_bad_line(tmp_path: Path, pattern: str) -> None:
    assert built(tmp_path, slow_manifest(tmp_path, pattern)).problems.error_count == 1


def test_a_slow_regular_expression_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"takes more than 1 s for 'aaaa.*nested repeats"):
        built(tmp_path, slow_manifest(tmp_path, "(?P<x>(a|aa)+)b"))


def slow_manifest(folder: Path, pattern: str) -> str:
    (folder / "a.csv").write_text(f"a\n{'a' * 60}c\n")
    return f'name = "own"\n[listing]\nfile = "a.csv"\nderive.a = \'{pattern}\'\ncolumns.source_uri = "x"\n'
