"""A checkpoint is gone on with by the run that it is of, and refused by any other, with the difference."""

import json
from pathlib import Path

import pytest

from tests.support.shard_folder import change_card, codec_card, read_index_rows, write_index, write_shard_folder
from tests.support.tiny_run import tiny_config
from uniform.errors import SpecMismatchError
from uniform.training.trainer import train


def test_a_checkpoint_of_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=2"))

    with pytest.raises(SpecMismatchError, match=r"model\.depth +1 +2"):
        train(tiny_config(tmp_path, "run", "steps=4", "model.depth=2"))
    with pytest.raises(SpecMismatchError, match=r"tasks\.text_drop +0\.1 +0\.5"):
        train(tiny_config(tmp_path, "run", "steps=4", "tasks.text_drop=0.5"))
    assert train(tiny_config(tmp_path, "run", "steps=4", "tasks.text_drop=0.5"), allowed_changes=["tasks"]).step == 4


def test_a_checkpoint_from_before_an_option_had_its_default(tmp_path: Path) -> None:
    metadata = train(tiny_config(tmp_path, "run", "steps=2")).checkpoint / "checkpoint.json"
    values = json.loads(metadata.read_text())
    younger = ("diffusion.independent_timesteps", "data.sources.0 texts", "data.sources.0 order and content")
    for name in younger:
        del values["fixed"][name]
    metadata.write_text(json.dumps(values))

    with pytest.raises(SpecMismatchError, match=r"diffusion\.independent_timesteps +False +True"):
        train(tiny_config(tmp_path, "run", "steps=3", "diffusion.independent_timesteps=true"))
    assert train(tiny_config(tmp_path, "run", "steps=3")).step == 3


def test_a_checkpoint_of_clips_in_another_order_or_with_other_texts_is_refused(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=2"))
    shards, rows = tmp_path / "shards", read_index_rows(tmp_path / "shards")
    write_index(shards, rows[::-1])
    with pytest.raises(SpecMismatchError, match=r"data\.sources\.0 order and content"):
        train(tiny_config(tmp_path, "run", "steps=3"))

    (text,) = rows[-1]["texts"]
    changed = [*rows[:-1], {**rows[-1], "texts": [{**text, "crc32": 1}]}]
    write_index(shards, changed)
    with pytest.raises(SpecMismatchError, match=r"data\.sources\.0 order and content"):
        train(tiny_config(tmp_path, "run", "steps=3"))

    write_index(shards, rows)
    change_card(shards, texts={"labels": {"codec": codec_card("t5", 0).as_dict(), "captions": "other"}})
    with pytest.raises(SpecMismatchError, match=r"data\.sources\.0 texts +bytes [0-9a-f]+ +t5 [0-9a-f]+"):
        train(tiny_config(tmp_path, "run", "steps=3"))


def test_a_checkpoint_of_other_shards_is_refused(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=2"))
    write_shard_folder(tmp_path / "vae", clips=18, video_card=codec_card("opensora-v1.2", 4))

    with pytest.raises(SpecMismatchError, match=r"video codec +dct [0-9a-f]+ +opensora-v1\.2"):
        train(tiny_config(tmp_path, "run", "steps=4", f'data.sources=[{{folder="{tmp_path / "vae"}"}}]'))
