"""One reader and one writer of Parquet tables."""

from pathlib import Path

import pyarrow as pa
import pytest

from uniform.errors import PipelineError
from uniform.tables import read_parquet, write_parquet

TABLE = pa.table({"clip_id": ["a", "b"], "bytes": [1, 2]})


def test_a_table_is_read_as_it_was_written_and_its_bytes_repeat(tmp_path: Path) -> None:
    write_parquet(tmp_path / "new" / "one.parquet", TABLE)
    write_parquet(tmp_path / "two.parquet", TABLE)

    assert read_parquet(tmp_path / "two.parquet", PipelineError, "the table").equals(TABLE)
    assert read_parquet(tmp_path / "two.parquet", PipelineError, "the table", ["bytes"]).column_names == ["bytes"]
    assert (tmp_path / "new" / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "two.parquet"]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no table"])
def test_a_file_that_is_no_table_is_named_with_the_next_step(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PipelineError, match=r"one\.parquet: the table cannot be read .*\. Make it again"):
        read_parquet(path, PipelineError, "the table", fix="Make it again")


def test_a_missing_column_is_an_error_of_the_caller_s_type(tmp_path: Path) -> None:
    write_parquet(tmp_path / "one.parquet", TABLE)

    with pytest.raises(PipelineError, match="other"):
        read_parquet(tmp_path / "one.parquet", PipelineError, "the table", ["other"])
