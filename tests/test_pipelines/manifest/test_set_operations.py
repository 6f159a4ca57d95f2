"""Two sets of clips: what they share, with its digest and its rows, and that what is no set is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.manifest.build import build_rows, read_manifest, write_parquet
from pipelines.manifest.set_operations import compare, read_clip_ids, rows_of, shared_between
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import Cut, fake_run, recipe, rows
from tests.support.paths import ROOT
from uniform.errors import ManifestError
from uniform.latents.format import ids_digest, read_card

LANDSCAPE = ROOT / "data_manifests" / "landscape.toml"


def test_sets_are_compared_by_their_ids(tmp_path: Path) -> None:
    rows = build_rows(read_manifest(LANDSCAPE))
    write_parquet(rows[:10], tmp_path / "a.parquet")
    write_parquet(reversed(rows[5:12]), tmp_path / "b.parquet")

    found = compare(read_clip_ids(tmp_path / "a.parquet"), read_clip_ids(tmp_path / "b.parquet"))

    assert (len(found.only_first), len(found.both), len(found.only_second)) == (5, 5, 2)
    assert found.digest_first == ids_digest(row.clip_id for row in reversed(rows[:10]))
    assert found.digest_first != found.digest_second
    assert found.digest_both == ids_digest(row.clip_id for row in rows[5:10])
    assert rows_of([tmp_path / "a.parquet"], found.both) == rows[5:10]
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(ManifestError, match="not a table"):
        read_clip_ids(tmp_path / "c.parquet")


def test_the_obtained_sets_of_two_labs_are_runs(tmp_path: Path) -> None:
    results = [
        run_pipeline(fake_run(tmp_path / lab, 40, recipe(cut=Cut(reject_every=every))), InlineBackend(), LogListener())
        for lab, every in (("ours", 7), ("theirs", 5))
    ]

    found = compare(read_clip_ids(tmp_path / "ours"), read_clip_ids(tmp_path / "theirs" / "index.parquet"))
    shared = rows_of([tmp_path / "theirs" / "index.parquet"], found.both)

    assert len(found.both) + len(found.only_first) == results[0].indexed
    assert len(found.both) + len(found.only_second) == results[1].indexed
    assert found.only_first
    assert found.digest_first == read_card(tmp_path / "ours").ids_digest
    assert {row.clip_id for row in shared} == set(found.both)


def test_a_set_without_rows_cannot_be_written(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path / "run"), InlineBackend(), LogListener())
    lonely = tmp_path / "index.parquet"
    lonely.write_bytes((tmp_path / "run" / "index.parquet").read_bytes())

    with pytest.raises(ManifestError, match="has the rows of its clips"):
        rows_of([lonely], read_clip_ids(lonely))
    with pytest.raises(ManifestError, match="nothing is finished there"):
        read_clip_ids(tmp_path / "run" / "commits")


def test_what_two_data_sets_share_is_counted_by_split() -> None:
    ours = [replace(row, source_id=f"v{n}", split="train" if n < 3 else "test") for n, row in enumerate(rows(6, "a"))]
    theirs = [replace(row, source_id=f"v{n + 2}", split="test") for n, row in enumerate(rows(4, "b"))]
    theirs = [replace(row, start_ms=row.start_ms + 2_000 + 500 * n) for n, row in enumerate(theirs)]

    found = shared_between([*ours, *theirs])

    # Source n begins at second n and lasts 2 s; b's copy begins 0, 0.5, 1 and 1.5 s later.
    assert [(one.first, one.second, one.first_clips, one.second_clips, one.splits_overlap) for one in found] == [
        (("a", "test"), ("b", "test"), 3, 3, False),
        (("a", "train"), ("b", "test"), 1, 1, True),
    ]
    assert shared_between(ours) == []
