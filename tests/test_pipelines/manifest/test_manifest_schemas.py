"""Other forms of listings than CSV, columns that are derived, and texts and addresses in any of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifest.build import build_rows, read_manifest
from tests.support.youtube_listing import rows_of
from uniform.errors import ManifestError


def test_columns_are_derived_by_an_expression(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(
        """
name = "d"
kind = "youtube"
[listing]
file = "d.txt"
header = false
fields = ["clip"]
derive.clip = '(?P<id>.{11})_(?P<s>\\d+)_(?P<e>\\d+)'
[listing.columns]
source_id = "id"
start_ms = "s"
end_ms = "e"
[listing.extra]
name = "{id}/{s}"
"""
    )
    (tmp_path / "d.txt").write_text("---g-f_I2yQ_1000_11000\n-_DElU__CgQ_0_10000\n")

    rows = build_rows(read_manifest(tmp_path / "d.toml"))

    assert [(row.source_id, row.start_ms, row.duration_ms) for row in rows] == [
        ("---g-f_I2yQ", 1000, 10_000),
        ("-_DElU__CgQ", 0, 10_000),
    ]
    assert rows[0].extra == {"name": "---g-f_I2yQ/1000"}


def test_parquet_and_jsonl_say_the_same_as_csv(tmp_path: Path) -> None:
    options = {"columns": 'labels = "labels"\ncaption = "text"'}
    table = {
        "id": ["abcdefghijk", "-bcdefghijk"],
        "start": [1.5, 30.0],
        "labels": [["a", "b"], ["c"]],
        "text": ["é", None],
    }
    pq.write_table(pa.table(table), tmp_path / "listing.parquet")
    lines = [json.dumps({key: column[n] for key, column in table.items()}) for n in range(2)]

    from_json = rows_of(tmp_path, "\n".join(lines), name="listing.jsonl", **options)
    from_parquet = build_rows(read_manifest(tmp_path / "tube.toml"), tmp_path / "listing.parquet")

    assert from_json == from_parquet
    assert [(row.start_ms, row.labels, row.caption) for row in from_json] == [
        (1500, ("a", "b"), "é"),
        (30_000, ("c",), None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "{",
        '{"id": NaN}',
        "3",
        '{"start": 1}',
        '{"id": null, "start": 1}',
        r'{"id": "abcdefghij\ud800", "start": 1}',
    ],
)
def test_a_line_that_is_no_json_object_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ManifestError, match=r"listing\.jsonl:2"):
        rows_of(tmp_path, f'{{"id": "abcdefghijk", "start": 1}}\n{line}\n', name="listing.jsonl")


def test_a_json_key_may_be_missing_on_some_lines_but_not_on_all(tmp_path: Path) -> None:
    lines = '{"id": "abcdefghijk", "start": 1, "text": "x"}\n{"id": "abcdefghijl", "start": 1}\n'

    rows = rows_of(tmp_path, lines, columns='caption = "text"', name="listing.jsonl")

    assert [row.caption for row in rows] == ["x", None]
    with pytest.raises(ManifestError, match=r"column 'txt': found no line with this key.*did you mean 'text'"):
        rows_of(tmp_path, lines, columns='caption = "txt"', name="listing.jsonl")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a Parquet file"):
        rows_of(tmp_path, "PAR1 no", name="listing.parquet")


def test_accents_are_composed_so_that_one_source_is_one_id(tmp_path: Path) -> None:
    (tmp_path / "u.toml").write_text(
        'name = "u"\nkind = "http"\n[listing]\nfile = "u.csv"\ncolumns = { source_uri = "url", labels = "label" }\n'
    )
    (tmp_path / "u.csv").write_text("url,label\nhttps://h.example/caf\u00e9.mp4,e\u0301t\u00e9\n")

    (row,) = build_rows(read_manifest(tmp_path / "u.toml"))

    assert row.labels == ("\u00e9t\u00e9",)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("file:///etc/passwd", 'kind "local"'),
        ("/data/a.mp4", 'kind "local"'),
        ("ftp://h.example/a.mp4", "http:// or https://"),
        ("https://user:pw@h.example/a.mp4", "Secrets stay out"),
        ("https:///a.mp4", "a host"),
        ("https://h.example/a b.mp4", "no spaces"),
        ("http://[::1/a.mp4", "an address"),
    ],
)
def test_an_address_that_must_not_be_fetched_is_refused(tmp_path: Path, url: str, wanted: str) -> None:
    (tmp_path / "u.toml").write_text(
        'name = "u"\nkind = "http"\n[listing]\nfile = "u.csv"\n[listing.columns]\nsource_uri = "url"\n'
    )
    (tmp_path / "u.csv").write_text(f"url\n{url}\n")

    with pytest.raises(ManifestError, match=wanted) as caught:
        build_rows(read_manifest(tmp_path / "u.toml"))
    assert "pw" not in str(caught.value)
