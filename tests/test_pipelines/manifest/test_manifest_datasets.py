"""The datasets that come with the toolkit, read from their listings as they are published."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.manifest.build import build_rows, inspect, read_manifest
from pipelines.manifest.set_operations import overlapping
from tests.support.paths import ROOT
from uniform.errors import ManifestError

MANIFESTS = sorted((ROOT / "data_manifests").glob("*.toml"))
EXCERPTS = ROOT / "tests" / "data" / "listings"
PUBLISHED = ROOT.parent / "shared" / "manifests"
GUSH = ("--PJHxphWEs", 30_000, ("Speech", "Gush"))
whole = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published listings are not beside the repository")


def manifest(name: str) -> Path:
    return ROOT / "data_manifests" / f"{name}.toml"


@pytest.mark.parametrize("path", MANIFESTS, ids=[path.stem for path in MANIFESTS])
def test_every_manifest_says_what_it_is_and_who_may_use_it(path: Path) -> None:
    found = read_manifest(path)

    assert found.name == path.stem
    assert found.table.title
    assert found.table.terms
    assert found.table.citation
    assert found.table.homepage.startswith("https://")
    assert found.table.obtain
    assert len({form.name for form in found.forms}) == len(found.forms)


@pytest.mark.parametrize(
    ("name", "listing", "form", "first"),
    [
        ("audioset_balanced", "audioset_balanced_train_segments.csv", "official", GUSH),
        ("audioset_balanced", "audioset_balanced_VARIANT_aoife.csv", "whole seconds", GUSH),
        ("audioset_balanced", "audioset_balanced_VARIANT_drummernet.csv", "with header", GUSH),
        ("vggsound", "vggsound_test.csv", "test.csv", ("glLQrEijrKg", 300_000, ("playing hammond organ",))),
        ("vggsound", "vggsound_mmaudio_test.tsv", "test.tsv", ("---g-f_I2yQ", 1_000, ("people marching",))),
        ("vggsound", "vggsound_specvqgan_train.txt", "ids of train", ("--0PQM4-hqg", 30_000, ())),
    ],
)
def test_each_form_in_the_wild_is_recognised(name: str, listing: str, form: str, first: tuple[object, ...]) -> None:
    built = inspect(read_manifest(manifest(name)), EXCERPTS / listing, partial=True)

    assert built.problems.error_count == 0
    assert [used for _, used in built.forms] == [form]
    assert (built.rows[0].source_id, built.rows[0].start_ms, built.rows[0].labels) == first
    assert {row.duration_ms for row in built.rows} == {10_000}


def test_three_forms_of_one_listing_give_the_same_clips() -> None:
    found = read_manifest(manifest("audioset_balanced"))
    names = ("train_segments", "VARIANT_aoife", "VARIANT_drummernet")
    shortest = 20

    tables = [build_rows(found, EXCERPTS / f"audioset_balanced_{name}.csv", partial=True)[:shortest] for name in names]

    assert tables[0] == tables[1] == tables[2]


def test_a_cut_listing_is_refused_with_the_place_to_get_it() -> None:
    with pytest.raises(ManifestError, match=r"wanted the published 22,160 \('official'\).*research\.google\.com"):
        build_rows(read_manifest(manifest("audioset_balanced")), EXCERPTS / "audioset_balanced_train_segments.csv")


def test_landscape_ships_its_listing_and_leaves_its_known_faults_out() -> None:
    rows = build_rows(read_manifest(manifest("landscape")))

    assert len(rows) == 1167  # 1,178 lines: one cut id, seven listed twice, three of train that overlap test
    assert Counter(row.split for row in rows) == {"train": 1066, "test": 101}
    assert len({row.labels for row in rows}) == 9
    train = [row for row in rows if row.split == "train"]
    assert not any(overlapping([row for row in rows if row.split == "test"], train))


STRONG = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
s9d-2nhuJCQ_30000\t2.627\t7.237\t/m/053hz1
b0RFKhbpFJA_30000\t0.000\t10.000\t/m/03m9d0z
s9d-2nhuJCQ_30000\t0.000\t1.5\t/m/09x0r
s9d-2nhuJCQ_30000\t8.000\t9.000\t/m/053hz1
-_DElU__CgQ_0\t1.000\t2.000\t/m/09x0r
"""


@pytest.mark.parametrize(("form", "text"), [("official", STRONG), ("without header", STRONG.split("\n", 1)[1])])
def test_the_events_of_a_segment_become_one_clip(tmp_path: Path, form: str, text: str) -> None:
    (tmp_path / "strong.tsv").write_text(text)
    built = inspect(read_manifest(manifest("audioset_strong")), tmp_path / "strong.tsv", partial=True)

    first, second, third = built.rows
    assert built.forms[0][1] == form
    assert (first.source_id, first.start_ms, first.duration_ms) == ("s9d-2nhuJCQ", 30_000, 10_000)
    assert first.labels == ("Cheering", "Speech")
    assert json.loads(first.extra["events"]) == [
        [2627, 7237, "Cheering"],
        [0, 1500, "Speech"],
        [8000, 9000, "Cheering"],
    ]
    assert second.source_id == "b0RFKhbpFJA"
    assert (third.source_id, third.start_ms) == ("-_DElU__CgQ", 0)


def test_a_full_vggsound_listing_drops_its_duplicates_and_split_overlaps(tmp_path: Path) -> None:
    lines = [
        '---g-f_I2yQ,1,"people marching",test',
        '---1_cCGK4M,0,"bird chirping, tweeting",train',
        "---1_cCGK4M,0,again,train",
        "---g-f_I2yQ,5,leak,train",
    ]
    (tmp_path / "vggsound.csv").write_text("\n".join(lines))

    built = inspect(read_manifest(manifest("vggsound")), tmp_path / "vggsound.csv", partial=True)

    assert built.forms[0][1] == "official"
    assert [(row.source_id, row.split, row.labels) for row in built.rows] == [
        ("---g-f_I2yQ", "test", ("people marching",)),
        ("---1_cCGK4M", "train", ("bird chirping, tweeting",)),
    ]


@whole
@pytest.mark.parametrize(
    ("name", "listings", "clips"),
    [
        ("audioset_balanced", ["audioset_balanced_train_segments.csv"], 22_160),
        ("audioset_eval", ["audioset_eval_segments.csv"], 20_371),
        ("vggsound", ["vggsound_test.csv"], 15_446),
        ("vggsound", ["vggsound_mmaudio_val.tsv", "vggsound_mmaudio_test.tsv"], 2_048 + 15_221),
        ("vggsound", [f"vggsound_specvqgan_{split}.txt" for split in ("train", "valid", "test")], 190_055),
    ],
)
def test_the_published_listings_give_their_published_counts(name: str, listings: list[str], clips: int) -> None:
    rows = build_rows(read_manifest(manifest(name)), [PUBLISHED / listing for listing in listings])

    assert len(rows) == clips
    assert len({row.clip_id for row in rows}) == clips


@whole
def test_ids_that_begin_with_a_dash_survive() -> None:
    rows = build_rows(read_manifest(manifest("audioset_balanced")), PUBLISHED / "audioset_balanced_train_segments.csv")

    assert sum(row.source_id.startswith("-") for row in rows) == 459
