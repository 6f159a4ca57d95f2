"""Whatever stands in a listing: rows, or an error that names the place. Nothing else."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.manifest.build import inspect, read_manifest, read_rows, write_parquet
from uniform.errors import ConfigError, ManifestError

KINDS = {
    "youtube": 'columns = { source_id = "a", start_s = "b", labels = "c" }',
    "http": 'columns = { source_uri = "a", end_s = "b", split = "c" }',
    "fsspec": 'columns = { source_uri = "s3://{a}/{b}", expected_digest = "c" }',
    "archive": 'root = "."\ncolumns = { source_uri = "a", duration_ms = "b", caption = "c" }',
}
CELLS = st.one_of(
    st.text(max_size=12),
    st.from_regex(r"[A-Za-z0-9_-]{11}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,9}(\.[0-9]{0,6})?", fullmatch=True),
    st.sampled_from(
        ["", "a.zip#b.mp4", "http://h.example/a", "train", '"', "../x", "\x00", "#", "1e9", "0:30", "\u2028"]
    ),
)


def manifest_of(folder: Path, kind: str, form: str) -> Path:
    options = KINDS[kind].replace('root = "."\n', "")
    (folder / "m.toml").write_text(f'name = "m"\nkind = "{kind}"\n[listing]\nformat = "{form}"\n{options}\n')
    return folder / "m.toml"


def read_or_complain(folder: Path, kind: str, form: str, content: bytes) -> None:
    (folder / "listing").write_bytes(content)
    complaint = None
    try:
        built = inspect(read_manifest(manifest_of(folder, kind, form)), folder / "listing")
    except ManifestError as error:
        complaint = str(error)
    if complaint is not None:
        assert str(folder / "listing") in complaint
        return
    for problem in built.problems.errors:
        assert str(problem).startswith(str(folder / "listing"))
    write_parquet(built.rows, folder / "rows.parquet")
    assert read_rows(folder / "rows.parquet") == built.rows


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
    lines=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6),
    glue=st.sampled_from([",", ", ", "\t", '","']),
)
def test_any_cells_give_rows_or_named_problems(kind: str, form: str, lines: list[list[str]], glue: str) -> None:
    text = "\n".join([glue.join("abc"), *(glue.join(cells) for cells in lines)])
    with tempfile.TemporaryDirectory() as name:
        read_or_complain(Path(name), kind, form, text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(form=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), content=st.binary(max_size=200))
def test_any_bytes_give_rows_or_named_problems(form: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        read_or_complain(Path(name), "youtube", form, content)


@settings(max_examples=40, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_any_json_gives_rows_or_named_problems(values: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for kind in KINDS:
            read_or_complain(Path(name), kind, "jsonl", json.dumps(values).encode())


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(max_size=120)
    | st.from_regex(r'(name|kind|root|listing|rows)(\.[a-z_]{1,9})? = ("[^"\n]{0,9}"|[0-9]+|\[\])\n')
)
def test_any_toml_gives_a_manifest_or_a_named_mistake(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ConfigError, match=r"m\.toml"):
            read_manifest(path)
