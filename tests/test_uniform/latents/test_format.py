import json
from dataclasses import replace
from pathlib import Path

import pytest

from uniform.errors import ShardError, SpecMismatchError
from uniform.latents.format import CARD_NAME, Card, identity, ids_digest, read_card, require_same, shard_name, spec_of
from uniform.spec import PAPER, TOY

CODEC = {"name": "dct", "fingerprint": "00ff", "shift": [0.0], "scale": [1.0]}
CARD = Card(
    spec=TOY.as_dict(), video=CODEC, audio=CODEC, datasets=("w1",), clips=2, counts={"ok": 2}, licences=("CC0",)
)


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    CARD.write(tmp_path)

    assert read_card(tmp_path) == CARD
    assert spec_of(CARD) == TOY


def test_shards_are_called_by_column_and_unit() -> None:
    assert shard_name("latents", 17) == "latents-000017.tar"


def test_the_digest_of_ids_does_not_depend_on_their_order() -> None:
    assert ids_digest(["b", "a"]) == ids_digest(["a", "b"]) != ids_digest(["a"])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 1, "colour": "red"}'])
def test_a_damaged_card_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_NAME).write_text(text)

    with pytest.raises(ShardError, match="not a card"):
        read_card(tmp_path)


def test_a_missing_card_and_a_card_of_another_format_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="was the pipeline run to its end"):
        read_card(tmp_path)
    (tmp_path / CARD_NAME).write_text(json.dumps(replace(CARD, format_version=9).as_dict()))
    with pytest.raises(ShardError, match="format version 9"):
        read_card(tmp_path)


def test_what_does_not_belong_is_shown_in_three_columns() -> None:
    wanted = identity(replace(CARD, spec=PAPER.as_dict(), video={**CODEC, "fingerprint": "beef"}))

    with pytest.raises(SpecMismatchError) as caught:
        require_same(identity(CARD), wanted, "runs/a", "Make them again.")

    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["what", "found", "wanted"] in lines
    assert ["spec.height_px", "64", "256"] in lines
    assert ["video", "codec", "dct", "00ff", "dct", "beef"] in lines
    assert str(caught.value).endswith("Make them again.")


def test_the_name_of_a_spec_does_not_matter_and_its_numbers_do() -> None:
    renamed = replace(CARD, spec={**CARD.spec, "name": "other"})

    require_same(identity(renamed), identity(CARD), "here", "nothing")
