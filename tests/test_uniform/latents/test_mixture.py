"""Mixtures: shares kept closely at every moment, each clip once per epoch of its source, wrong sources refused."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.shard_folder import codec_card, write_shard_folder
from uniform.errors import ConfigError, ShardError, SpecMismatchError
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.spec import PAPER


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    write_shard_folder(tmp_path / "a", clips=11, dataset="a", captions=("short", "long"))
    write_shard_folder(tmp_path / "b", clips=5, dataset="b")
    return tmp_path / "a", tmp_path / "b"


def test_every_clip_comes_once_per_epoch_of_its_source(two: tuple[Path, Path]) -> None:
    mixture = Mixture([SourceConfig(folder=two[0], weight=1), SourceConfig(folder=two[1], weight=2)], seed=3)
    plan = mixture.plan(np.arange(600))

    for number, clips in ((0, 11), (1, 5)):
        mine = plan.source == number
        for epoch in range(int(plan.epoch[mine].max())):
            assert sorted(plan.clip[mine & (plan.epoch == epoch)].tolist()) == list(range(clips))


def test_shares_hold_at_every_moment(two: tuple[Path, Path]) -> None:
    mixture = Mixture([SourceConfig(folder=two[0], weight=0.7), SourceConfig(folder=two[1], weight=0.3)], seed=0)
    source = mixture.plan(np.arange(5000)).source

    given = np.cumsum(source == 0)
    assert np.abs(given - 0.7 * np.arange(1, 5001)).max() <= 1.0


def test_without_weights_a_source_counts_by_its_clips(two: tuple[Path, Path]) -> None:
    mixture = Mixture([SourceConfig(folder=folder) for folder in two], seed=0)

    assert mixture.counts.tolist() == [11, 5]
    assert mixture.epochs(16) == {str(two[0]): 1.0, str(two[1]): 1.0}
    assert mixture.epochs(8 + 16 * 3)[str(two[0])] == pytest.approx(3.5, abs=0.1)


def test_sources_of_one_folder_have_different_names(tmp_path: Path, two: tuple[Path, Path]) -> None:
    write_shard_folder(tmp_path / "c", clips=9, splits={"train": 6, "test": 3})
    parts = [SourceConfig(folder=tmp_path / "c", split=split) for split in ("train", "test", "test")]
    mixture = Mixture([*parts, SourceConfig(folder=two[1])], seed=0)

    folder = str(tmp_path / "c")
    assert list(mixture.epochs(17)) == [f"{folder} (train)", f"{folder} #1", f"{folder} #2", str(two[1])]
    assert list(mixture.epochs(17).values()) == [1.0, 1.0, 1.0, 1.0]


def test_a_plan_of_one_position_is_that_position_of_a_long_plan(two: tuple[Path, Path]) -> None:
    mixture = Mixture([SourceConfig(folder=two[0], weight=1), SourceConfig(folder=two[1], weight=2)], seed=3)
    whole = mixture.plan(np.arange(10_000))
    one = mixture.plan(np.array([7321]))

    assert [int(getattr(one, f)[0]) for f in ("source", "clip", "epoch", "caption")] == [
        int(getattr(whole, f)[7321]) for f in ("source", "clip", "epoch", "caption")
    ]


def test_caption_sets_are_drawn_by_weight(two: tuple[Path, Path]) -> None:
    config = SourceConfig(folder=two[0], captions=("long", "short"), caption_weights=(3, 1))
    plan = Mixture([config], seed=1).plan(np.arange(4000))

    assert abs((plan.caption == 0).mean() - 0.75) < 0.03


def test_a_clip_without_text_is_refused_or_dropped_as_configured(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path, clips=6, without_text=(2,))

    with pytest.raises(ShardError, match=f"1 clips have no text in labels, the first is {ids[2]}"):
        Mixture([SourceConfig(folder=tmp_path)], seed=0)
    plan = Mixture([SourceConfig(folder=tmp_path, missing_text="drop")], seed=0).plan(np.arange(60))
    assert set(plan.clip[plan.caption < 0].tolist()) == {2}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_above_zero(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"weight is .*; it must be above 0"):
        SourceConfig(folder=Path("x"), weight=weight)


def test_a_weight_too_small_to_be_kept_is_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="the smallest that can be kept"):
        Mixture([SourceConfig(folder=two[0], weight=1), SourceConfig(folder=two[1], weight=1e-6)], seed=0)


def test_weights_for_some_sources_only_are_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="every source a weight, or none"):
        Mixture([SourceConfig(folder=two[0], weight=1), SourceConfig(folder=two[1])], seed=0)


def test_an_unknown_caption_set_names_the_known_ones(two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="there is no caption set 'pllava'; the folder has long, short"):
        Mixture([SourceConfig(folder=two[0], captions=("pllava",))], seed=0)


def test_sources_of_another_spec_or_codec_are_refused_with_the_difference(two: tuple[Path, Path]) -> None:
    other = two[0].parent / "paper"
    write_shard_folder(other, clips=2, spec=PAPER)
    with pytest.raises(SpecMismatchError, match=r"spec\.height_px +256 +64"):
        Mixture([SourceConfig(folder=two[0]), SourceConfig(folder=other)], seed=0)

    vae = two[0].parent / "vae"
    write_shard_folder(vae, clips=2, video_card=codec_card("opensora-v1.2", 4))
    with pytest.raises(SpecMismatchError, match=r"video codec +opensora-v1\.2 [0-9a-f]{16} +dct"):
        Mixture([SourceConfig(folder=two[0]), SourceConfig(folder=vae)], seed=0)

    text = two[0].parent / "text"
    write_shard_folder(text, clips=2, text_card=codec_card("t5-v1_1-xxl", 0))
    with pytest.raises(SpecMismatchError, match="same text codec"):
        Mixture([SourceConfig(folder=two[0]), SourceConfig(folder=text)], seed=0)
