"""Captions without a model: from labels by a template, from the listing, from a file, or merged."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.clip import Clip, Row
from pipelines.codes import CODES
from pipelines.run.ledger import status_of
from pipelines.stage import Context
from pipelines.stages.caption import Stage
from uniform.errors import ConfigError
from uniform.spec import TOY


def captioned(stage: Stage, **changes: object) -> Clip:
    row: Mapping[str, object] = {
        "clip_id": "0123456789abcdef",
        "dataset": "landscape",
        "split": "train",
        "source_kind": "local",
        "source_id": "a",
        "source_uri": "a.mp4",
        "start_ms": 0,
        "duration_ms": 4000,
        "labels": ("wind noise", "raining"),
        **changes,
    }
    (clip,) = stage.open(Context(spec=TOY))(iter([Clip(Row(**row))]))  # type: ignore[arg-type]
    return clip


def test_the_default_caption_is_the_class_label() -> None:
    clip = captioned(Stage(), labels=("wind noise",))

    assert (clip["caption"], clip["origin"]) == ("wind noise", "label")


def test_a_template_joins_labels_and_a_dataset_can_have_its_own() -> None:
    stage = Stage(template="the sound of {label}", templates={"landscape": "{labels} ({split})"}, separator=" and ")

    assert captioned(stage)["caption"] == "wind noise and raining (train)"
    assert captioned(stage, dataset="vggsound")["caption"] == "the sound of wind noise"


def test_the_caption_of_the_listing_is_normalised_and_keeps_its_origin() -> None:
    clip = captioned(Stage(source="given", set="given"), caption="  a\tdog\n barks\x00 ", caption_origin="human")

    assert (clip["caption"], clip["origin"]) == ("a dog barks", "human")


@pytest.mark.parametrize(
    ("stage", "changes", "code"),
    [
        (Stage(), {"labels": ()}, "caption_missing"),
        (Stage(), {"labels": ("\u00a0 ",)}, "caption_empty"),
        (Stage(source="given"), {"caption": None}, "caption_missing"),
        (Stage(source="given"), {"caption": " \n"}, "caption_empty"),
    ],
)
def test_a_missing_caption_has_a_drop_code_and_is_never_an_empty_text(
    stage: Stage, changes: Mapping[str, object], code: str
) -> None:
    clip = captioned(stage, **changes)

    assert clip.dropped is not None
    assert (status_of(clip.dropped.code), clip.dropped.code) == ("rejected", code)
    assert code in CODES
    assert not clip.fields


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{lable}", "did you mean 'label'"),
        ("{label.__class__}", "unknown field"),
        ("{label!r}", "without '!' and ':'"),
        ("{label", "write a field as"),
        ("a sound", "needs {label} or {labels}"),
        ("{}", "unknown field ''"),
    ],
)
def test_a_wrong_template_is_refused_before_anything_runs(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stage(templates={"landscape": template})


def test_each_set_has_its_own_table_and_a_safe_name() -> None:
    assert Stage(set="words").store.name == "captions/words"
    with pytest.raises(ConfigError, match=r"caption\.set"):
        Stage(set="../words")


def test_what_changes_a_caption_changes_the_provenance() -> None:
    plain = Stage().provenance(TOY)

    assert Stage(template="{label}").provenance(TOY) != plain
    assert Stage(separator=";").provenance(TOY) != plain
    assert Stage(source="given").provenance(TOY) != plain
    assert Stage(set="other").provenance(TOY) == plain


def merged(template: str, caption: str, **changes: object) -> Clip:
    stage = Stage(source="merge", set="merged", template=template)
    clip = captioned(Stage(), labels=("x",)).with_fields(caption=caption)
    row = dataclasses.replace(clip.row, **{"labels": ("wind", "rain"), **changes})
    (found,) = stage.open(Context(spec=TOY))(iter([Clip(row, clip.fields)]))
    return found


def test_a_merge_adds_labels_to_the_previous_caption() -> None:
    found = merged("{caption} Sounds: {labels}.", "A tree bends.")

    assert (found["caption"], found["origin"]) == ("A tree bends. Sounds: wind, rain.", "merge")
    assert Stage(source="merge", template="{caption}").needs == ("caption",)
    assert Stage().needs == ()


def test_a_merge_leaves_the_caption_of_a_clip_without_labels_and_its_braces_alone() -> None:
    assert merged("{caption} Sounds: {labels}.", "A tree {bends}.", labels=())["caption"] == "A tree {bends}."
    assert merged("{caption} {label}", "A {label} sign.")["caption"] == "A {label} sign. wind"


def test_a_merge_without_the_caption_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"of a merge needs \{caption\}"):
        Stage(source="merge", template="{labels}")
    with pytest.raises(ConfigError, match="unknown field 'caption'"):
        Stage(template="{caption} {label}")


def test_captions_of_a_file_come_with_their_origin_and_its_digest_counts(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("clip_id,caption,origin\n0123456789abcdef, a  dog ,model\n")
    stage = Stage(source="file", set="mine", file=str(file))
    clip, before = captioned(stage), stage.provenance(TOY)

    assert (clip["caption"], clip["origin"]) == ("a dog", "model")
    file.write_text("clip_id,caption\n0123456789abcdee,a cat\n")
    absent = captioned(stage)
    assert absent.dropped is not None
    assert absent.dropped.code == "caption_missing"
    assert stage.provenance(TOY) != before


def test_a_missing_or_unused_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Stage(source="file", file="nowhere.csv").provenance(TOY)
    for options in ({"source": "file"}, {"file": "x.csv"}):
        with pytest.raises(ConfigError, match="give both or none"):
            Stage(**options)  # type: ignore[arg-type]
