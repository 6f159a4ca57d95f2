"""Rows are rejected without a download: the same span in two datasets, tables to leave out, another script."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.clip import Clip, Row
from pipelines.manifest.build import write_parquet
from pipelines.manifest.cross_dataset_duplicates import MARK, mark_cross_dataset_duplicates
from pipelines.run.job import new_run
from pipelines.stage import Context
from pipelines.stages.check_rows import Stage
from tests.support.fake_stages import rows
from uniform.errors import ConfigError, ManifestError
from uniform.spec import TOY


def clip(dataset: str, start_ms: int = 0, split: str = "train", duration_ms: int = 10_000, source: str = "v1") -> Row:
    (row,) = rows(1, f"{dataset}{split}{start_ms}", source_kind="http", source_uri=f"https://a.org/{source}")
    span = {"start_ms": start_ms, "duration_ms": duration_ms}
    return replace(row, dataset=dataset, split=split, source_id=source, extra={"a": "b"}, **span)


def marked(*given: Row) -> list[bool]:
    return [MARK in row.extra for row in mark_cross_dataset_duplicates(given)]


def code(row: Row, **options: Any) -> str | None:
    (checked,) = Stage(**options).open(Context(spec=TOY))(iter([Clip(row)]))
    return checked.dropped.code if checked.dropped else None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (clip("a"), clip("b"), [False, True]),
        (clip("a"), clip("b", 5_000), [False, True]),
        (clip("a"), clip("b", 5_001), [False, False]),
        (clip("a"), clip("b", 9_000, duration_ms=2_000), [False, True]),
        (clip("a"), clip("b", source="v2"), [False, False]),
        (clip("a"), clip("a", 1_000), [False, False]),
        (clip("a", split="test"), clip("b", 9_999), [False, True]),
        (clip("a"), clip("b", 9_999, split="test"), [True, False]),
        (clip("a"), clip("b", 10_000, split="test"), [False, False]),
        (clip("a", split="val"), clip("b", 9_000, split="test"), [False, False]),
    ],
)
def test_the_same_moment_in_two_datasets_is_marked_once(first: Row, second: Row, expected: list[bool]) -> None:
    assert marked(first, second) == expected


def test_a_marked_clip_marks_no_other() -> None:
    assert marked(clip("a"), clip("b", 5_000), clip("c", 10_000)) == [False, True, False]


def test_a_run_over_two_datasets_marks_and_the_stage_rejects(tmp_path: Path) -> None:
    write_parquet([clip("a"), clip("a", 50_000)], tmp_path / "a.parquet")
    write_parquet([clip("b")], tmp_path / "b.parquet")

    run = new_run([tmp_path / "a.parquet", tmp_path / "b.parquet"], "toy", tmp_path / "out")

    assert run.clips is not None
    kept = [dict(extra) for extra in run.clips["extra"].to_pylist()]
    assert [MARK in extra for extra in kept] == [False, False, True]
    assert code(clip("b")) is None
    (duplicate,) = mark_cross_dataset_duplicates([clip("a"), clip("b")])[1:]
    assert code(duplicate) == "duplicate"
    assert code(duplicate, same_span=False) is None


def test_clips_of_a_table_are_left_out_and_the_table_belongs_to_the_results(tmp_path: Path) -> None:
    first, second = rows(2)
    write_parquet([second], tmp_path / "copies.parquet")
    stage = Stage(leave_out=(str(tmp_path / "copies.parquet"),))
    before = stage.provenance(TOY)
    write_parquet([first, second], tmp_path / "copies.parquet")

    assert code(second, leave_out=(str(tmp_path / "copies.parquet"),)) == "duplicate"
    assert code(rows(3)[2], leave_out=(str(tmp_path / "copies.parquet"),)) is None
    assert stage.provenance(TOY) != before
    with pytest.raises(ManifestError, match="not a table"):
        code(first, leave_out=(str(tmp_path / "none.parquet"),))


@pytest.mark.parametrize(
    ("label", "scripts", "expected"),
    [
        ("dog barking, 5 µm (a)", ("latin",), None),
        ("café Straße naïve", ("latin",), None),
        ("собака", ("latin",), "label_script"),
        ("dog 犬", ("latin",), "label_script"),
        ("개", ("latin",), "label_script"),
        ("собака", ("latin", "cyrillic"), None),
        ("dog", ("cyrillic",), "label_script"),
        ("собака", None, None),
        ("123 !", ("greek",), None),
    ],
)
def test_a_label_in_another_script_is_found(label: str, scripts: tuple[str, ...] | None, expected: str | None) -> None:
    assert code(replace(rows(1)[0], labels=(label,)), scripts=scripts) == expected
    assert code(replace(rows(1)[0], labels=(), caption=label), scripts=scripts) == expected


def test_an_unknown_script_is_refused() -> None:
    with pytest.raises(ConfigError, match="'latine' is not a script"):
        Stage(scripts=("latine",))
