"""CSV listings as they are found in the wild, and every way in which they are wrong."""

import json
from pathlib import Path

import pytest

from pipelines.manifest.build import build_rows, inspect, read_manifest
from tests.support.youtube_listing import YOUTUBE, rows_of
from uniform.errors import ManifestError


def test_byte_order_mark_and_crlf_leave_no_trace(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"\xef\xbb\xbfid,start\r\nabcdefghijk,1\r\nabcdefghijl,2\r\n")

    assert [(row.source_id, row.start_ms) for row in rows] == [("abcdefghijk", 1000), ("abcdefghijl", 2000)]


def test_lone_carriage_returns_end_lines_too(tmp_path: Path) -> None:
    assert len(rows_of(tmp_path, b"id,start\rabcdefghijk,1\rabcdefghijl,2\r")) == 2


def test_quoted_commas_and_comma_space_quoting_are_one_cell(tmp_path: Path) -> None:
    text = '# comment, with a comma\nid, start, mids\nabcdefghijk, 30.000, "/m/a,/m/b"\nabcdefghijl, 1, "x, ""y"""\n'

    rows = rows_of(tmp_path, text, 'comment = "#"\nlabel_separator = ","', 'labels = "mids"')

    assert [row.labels for row in rows] == [("/m/a", "/m/b"), ("x", '"y"')]


def test_a_comment_sign_inside_a_quoted_cell_is_text(tmp_path: Path) -> None:
    text = 'id,start,text\nabcdefghijk,1,"one\n# two"\n# gone\nabcdefghijl,2,x\n'

    rows = rows_of(tmp_path, text, 'comment = "#"', 'caption = "text"')

    assert [row.caption for row in rows] == ["one\n# two", "x"]


def test_an_id_that_begins_with_a_dash_is_kept_and_its_clip_id_does_not(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "id,start\n--PJHxphWEs,30\n")

    assert row.source_id == "--PJHxphWEs"
    assert row.source_uri == "https://www.youtube.com/watch?v=--PJHxphWEs"
    assert len(row.clip_id) == 16
    assert set(row.clip_id) <= set("0123456789abcdef")


def test_ids_that_differ_only_in_case_are_two_clips(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "id,start\nabcdefghijk,1\nABCDEFGHIJK,1\n")

    assert len({row.clip_id.lower() for row in rows}) == 2


def test_clip_ids_are_fixed_for_good(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "id,start\nabcdefghijk,30\n", "duration_s = 10")

    assert row.clip_id == "efcfc4c42e5a6972"


@pytest.mark.parametrize(
    ("text", "start_ms"),
    [
        ("30", 30_000),
        ("30.000", 30_000),
        ("0.1", 100),
        ("1.005", 1005),
        ("4.35", 4350),
        ("2.0005", 2000),
        ("1:02:03.5", 3_723_500),
    ],
)
def test_seconds_become_exact_milliseconds(tmp_path: Path, text: str, start_ms: int) -> None:
    (row,) = rows_of(tmp_path, f"id,start\nabcdefghijk,{text}\n")

    assert row.start_ms == start_ms


def test_json_floats_become_exact_milliseconds(tmp_path: Path) -> None:
    lines = [{"id": f"abcdefghi{n:02}", "start": n + 0.005} for n in range(20)]

    rows = rows_of(tmp_path, "\n".join(map(json.dumps, lines)), 'format = "jsonl"', name="listing.jsonl")

    assert [row.start_ms for row in rows] == [1000 * n + 5 for n in range(20)]


@pytest.mark.parametrize("bad", ["-1", "nan", "inf", "1e3", "", "30,5", "0x10", "१२", "1:99"])
def test_a_start_that_is_no_time_is_refused_with_its_line(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ManifestError, match=r"listing\.csv:3: column 'start'"):
        rows_of(tmp_path, f'id,start\nabcdefghijk,1\nabcdefghijl,"{bad}"\n')


def test_milliseconds_under_the_name_of_seconds_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"map it to columns\.start_ms"):
        rows_of(tmp_path, "id,start\nabcdefghijk,370000000\n")


def test_an_end_before_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"column 'end': found a clip of -1000 ms"):
        rows_of(tmp_path, "id,start,end\nabcdefghijk,3,2\n", columns='end_s = "end"')


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        ("#NAME?", "spreadsheet"),
        ("'-bcdefghijk", "spreadsheet"),
        ("https://youtu.be/x", "11 characters"),
        ("578", "Correct"),
    ],
)
def test_an_id_that_is_no_youtube_id_is_refused_with_a_fix(tmp_path: Path, cell: str, fix: str) -> None:
    with pytest.raises(ManifestError, match=fix):
        rows_of(tmp_path, f"id,start\n{cell},1\n")


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"listing\.csv:2: column 'start'.*did you mean 'star'\?"):
        rows_of(tmp_path, "\nid,star\nabcdefghijk,1\n")


def test_a_line_with_too_many_or_too_few_cells_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        rows_of(tmp_path, "id,start\nabcdefghijk,1,2\nabcdefghijl\n")

    assert "2 problems" in str(caught.value)
    assert "listing.csv:2: found 3 cells" in str(caught.value)
    assert "listing.csv:3: found 1 cells" in str(caught.value)


def test_a_quote_that_is_not_closed_is_refused_where_it_opens(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"listing\.csv:3: found a line that does not parse"):
        rows_of(tmp_path, 'id,start\nabcdefghijk,1\n"abcdefghijl,2\nabcdefghijm,3\n')


def test_a_huge_cell_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        rows_of(tmp_path, f"id,start\nabcdefghijk,{'9' * 200_000}\n")

    assert "field larger than field limit" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_every_problem_is_counted_and_the_first_twenty_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        rows_of(tmp_path, "id,start\n" + "short,1\n" * 321)

    assert "321 problems" in str(caught.value)
    assert str(caught.value).count("listing.csv:") == 20
    assert "and 301 more" in str(caught.value)


def test_the_wrong_encoding_names_line_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"listing\.csv:3: byte b.\\xe9. .*listing\.encoding"):
        rows_of(tmp_path, b"id,start,text\nabcdefghijk,1,x\nabcdefghijl,2,caf\xe9\n", columns='caption = "text"')


def test_a_stated_encoding_is_used(tmp_path: Path) -> None:
    content = "id,start,text\nabcdefghijk,1,café\n".encode("cp1252")

    (row,) = rows_of(tmp_path, content, 'encoding = "cp1252"', 'caption = "text"')

    assert row.caption == "café"


def test_utf_16_is_recognised_and_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is UTF-16"):
        rows_of(tmp_path, "id,start\nabcdefghijk,1\n".encode("utf-16"))


@pytest.mark.parametrize("content", ["", "id,start\n", "# nothing\n\n"])
def test_a_listing_without_clips_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ManifestError, match="found no data line; wanted at least one clip"):
        rows_of(tmp_path, content, 'comment = "#"')


def test_a_listing_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tube.toml").write_text(YOUTUBE.format(listing="", columns=""))

    with pytest.raises(ManifestError, match=r"listing\.csv: this listing is missing"):
        build_rows(read_manifest(tmp_path / "tube.toml"))


def test_a_clip_that_is_listed_twice_is_refused_unless_the_manifest_says_which(tmp_path: Path) -> None:
    text = "id,start,label\nabcdefghijk,1,dog\nabcdefghijl,1,cat\nabcdefghijk,1.000,bark\n"

    with pytest.raises(
        ManifestError, match=r"listing\.csv:4: found clip 'abcdefghijk' 1-5 s a second time.*listing\.csv:2"
    ):
        rows_of(tmp_path, text, columns='labels = "label"')
    first = rows_of(tmp_path, text, 'on_duplicate = "first"', 'labels = "label"')
    united = rows_of(tmp_path, text, 'on_duplicate = "merge"', 'labels = "label"')

    assert [row.labels for row in first] == [("dog",), ("cat",)]
    assert [row.labels for row in united] == [("dog", "bark"), ("cat",)]


def test_one_source_with_overlapping_spans_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    text = "id,start,set\nabcdefghijk,0,train\nabcdefghijk,8,train\nabcdefghijk,3.9,test\nabcdefghijk,4,val\n"

    with pytest.raises(ManifestError) as caught:
        rows_of(tmp_path, text, columns='split = "set"')

    assert "listing.csv:4: found 'abcdefghijk' 3.9-7.9 s in split 'test', and 'abcdefghijk' 0-4 s in 'train'" in str(
        caught.value
    )
    assert "listing.csv:5: found 'abcdefghijk' 4-8 s in split 'val', and 'abcdefghijk' 3.9-7.9 s in 'test'" in str(
        caught.value
    )
    assert "2 problems" in str(caught.value)


def test_the_same_clip_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="in split 'test'"):
        rows_of(tmp_path, "id,start,set\nabcdefghijk,0,train\nabcdefghijk,0,test\n", columns='split = "set"')


def test_a_leak_that_the_manifest_accepts_is_a_warning_and_ids_stay_unique(tmp_path: Path) -> None:
    text = "id,start,set\nabcdefghijk,0,train\nabcdefghijk,0,test\n"
    rows = rows_of(tmp_path, text, 'on_leak = "warn"', 'split = "set"')

    assert [row.split for row in rows] == ["train"]
    assert inspect(read_manifest(tmp_path / "tube.toml")).problems.warning_count == 1


def test_split_names_are_translated_and_unknown_ones_refused(tmp_path: Path) -> None:
    options = {"listing": 'split_names = { "0" = "train", "1" = "test" }', "columns": 'split = "set"'}

    rows = rows_of(tmp_path, "id,start,set\nabcdefghijk,0,0\nabcdefghijl,0,1\n", **options)

    assert [row.split for row in rows] == ["train", "test"]
    with pytest.raises(ManifestError, match=r"column 'set': found '2'"):
        rows_of(tmp_path, "id,start,set\nabcdefghijk,0,2\n", **options)


def test_another_number_of_lines_than_published_is_refused_unless_partial(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"found 1 data lines; wanted the published 2"):
        rows_of(tmp_path, "id,start\nabcdefghijk,1\n", "rows = 2")

    assert len(build_rows(read_manifest(tmp_path / "tube.toml"), partial=True)) == 1
