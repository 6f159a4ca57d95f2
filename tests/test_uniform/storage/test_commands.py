"""Commands that write to a URL put there the bytes that they write to a local path."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.object_store import Store


def test_a_world_and_its_table_go_to_a_bucket_with_the_local_bytes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFORM_SCRATCH", str(tmp_path / "scratch"))
    clips = ["--clips", "2", "--test-clips", "1"]
    for line in (
        ["world", "write", "local", *clips],
        ["world", "write", "s3://bucket/world", *clips],
        ["manifest", "build", "local/avworld_w1.toml", "--out", "local/table.parquet"],
        ["manifest", "build", "local/avworld_w1.toml", "--out", "s3://bucket/world/table.parquet"],
    ):
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output

    local = {f"world/{path.relative_to('local')}": path for path in Path("local").rglob("*") if path.is_file()}
    assert len(local) >= 6
    assert store.objects() == {name: path.read_bytes() for name, path in local.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"local", "scratch"}
