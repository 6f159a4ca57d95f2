"""Recipes: read strictly, wired by fields, refused before anything runs."""

from pathlib import Path

import pytest

from pipelines.recipe import make_recipe, read_recipe, recipe_path
from pipelines.stages import clip_media, encode_latents, encode_text
from tests.support.fake_stages import Cut, Encode, Look, Say, Spell, recipe
from tests.support.paths import ROOT
from uniform.errors import ConfigError
from uniform.spec import PAPER, TOY

TEXT = """
name = "mine"
spec = "toy"
unit_clips = 4

[[stage]]
use = "fetch_media"

[[stage]]
use = "caption"
as = "words"
set = "labels"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "data_manifests" / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_in_the_repository_can_be_read_by_name(path: Path) -> None:
    found = read_recipe(path.stem)

    assert found.name == path.stem
    assert recipe_path(path.stem) == path
    assert {"fetch_media", "clip_media", "encode_latents"} <= set(found.names)


def test_toy_and_paper_recipes_have_their_specs() -> None:
    assert (read_recipe("toy").spec, read_recipe("paper").spec) == (TOY, PAPER)


def test_instances_have_names_and_options(tmp_path: Path) -> None:
    found = read_recipe(write(tmp_path, TEXT))

    assert found.names == ("fetch_media", "words")
    assert found.step("words").stage.store.name == "captions/labels"
    assert (found.unit_clips, found.spec) == (4, TOY)


def test_spec_may_be_a_table(tmp_path: Path) -> None:
    table = 'unit_clips = 4\n\n[spec]\nname = "small"\nheight_px = 32\nwidth_px = 32\n'
    text = TEXT.replace('spec = "toy"\nunit_clips = 4\n', table)

    assert read_recipe(write(tmp_path, text)).spec.video_latent == (4, 20, 4, 4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('spec = "toy"', 'spec = "toyy"', r"recipe.toml:3: there is no spec 'toyy'; did you mean 'toy'"),
        ("unit_clips", "unit_clip", r"recipe.toml:4: unknown key 'unit_clip'; did you mean 'unit_clips'"),
        ("unit_clips = 4", "", "'unit_clips' is missing"),
        ("unit_clips = 4", "unit_clips = 0", "unit_clips is 0; it must be 1 or more"),
        ("unit_clips = 4", 'unit_clips = "4"', "wanted a whole number"),
        ('"caption"', '"captain"', "there is no stage 'captain'; did you mean 'caption'"),
        ('set = "labels"', 'sett = "labels"', "unknown key 'stage.1..sett'; did you mean 'set'"),
        ('as = "words"', 'as = "fetch_media"', "two stages are called 'fetch_media'"),
        ('as = "words"', 'as = "../words"', "cannot name a stage"),
        ('use = "caption"', "", "has no 'use'"),
        (
            'use = "caption"\nas = "words"\nset = "labels"',
            'use = "clip_media"\n[[stage]]\nuse = "encode_text"',
            "'caption'",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place_and_the_fix(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, TEXT.replace(old, new)))


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'toi'; did you mean 'toy'"):
        read_recipe("toi")


def test_missing_recipe_file_is_an_error_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"nowhere/x.toml: cannot be read"):
        read_recipe("nowhere/x.toml")


def test_a_stage_takes_a_field_from_the_nearest_stage_before_it() -> None:
    found = make_recipe(
        "two",
        TOY,
        4,
        [("a", Say(set="a")), ("spell-a", Spell(set="a")), ("b", Say(set="b")), ("spell-b", Spell(set="b"))],
    )

    assert [found.producers(name)["caption"].name for name in ("spell-a", "spell-b")] == ["a", "b"]


def test_ancestors_are_the_stages_that_results_are_made_from() -> None:
    made = recipe()

    assert [one.name for one in made.ancestors("encode")] == ["cut"]
    assert [one.name for one in made.ancestors("spell")] == ["say"]
    assert made.previous("encode").name == "spell"


def test_two_stages_cannot_share_a_store() -> None:
    with pytest.raises(ConfigError, match="both store their results as 'clips'"):
        make_recipe("x", TOY, 4, [("a", Cut()), ("b", Cut())])


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage 'look' needs 'mp4'"):
        make_recipe("x", TOY, 4, [("look", Look()), ("cut", Cut()), ("encode", Encode())])


def test_a_recipe_without_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="no stage"):
        make_recipe("x", TOY, 4, [])


HEAD = """
name = "mine"
spec = "toy"
unit_clips = 4

[media]
windows = 2

[codecs.video]
name = "dct"
options = { device = "cpu" }

[codecs.text]
name = "bytes"

[[stage]]
use = "fetch_media"

[[stage]]
use = "clip_media"

[[stage]]
use = "caption"

[[stage]]
use = "encode_text"

[[stage]]
use = "encode_latents"
"""


def test_stages_inherit_what_the_head_of_the_recipe_sets(tmp_path: Path) -> None:
    found = read_recipe(write(tmp_path, HEAD))

    clip, encode, text = (found.step(name).stage for name in ("clip_media", "encode_latents", "encode_text"))
    assert isinstance(clip, clip_media.Stage)
    assert isinstance(encode, encode_latents.Stage)
    assert isinstance(text, encode_text.Stage)
    assert (clip.windows, encode.windows) == (2, 2)
    assert (encode.video, dict(encode.video_options), encode.audio) == ("dct", {"device": "cpu"}, "dct")
    assert text.codec == "bytes"


def test_options_in_the_stages_give_the_same_stages_as_at_the_head(tmp_path: Path) -> None:
    old = HEAD[: HEAD.index("[media]")] + HEAD[HEAD.index("[[stage]]") :]
    old = old.replace('use = "clip_media"', 'use = "clip_media"\nwindows = 2')
    old = old.replace(
        'use = "encode_latents"',
        'use = "encode_latents"\nwindows = 2\nvideo = "dct"\nvideo_options = { device = "cpu" }',
    )

    assert read_recipe(write(tmp_path, old)) == read_recipe(write(tmp_path, HEAD))


def test_an_option_at_the_head_and_in_a_stage_is_refused_with_both_keys(tmp_path: Path) -> None:
    text = HEAD.replace('use = "clip_media"', 'use = "clip_media"\nwindows = 2')

    with pytest.raises(ConfigError, match=r"'stage\[1\]\.windows' has moved .* 'media\.windows' is set too"):
        read_recipe(write(tmp_path, text))


def test_stages_that_disagree_are_refused_with_the_key_of_the_head(tmp_path: Path) -> None:
    text = HEAD.replace("[media]\nwindows = 2\n", "").replace('use = "clip_media"', 'use = "clip_media"\nwindows = 2')

    with pytest.raises(
        ConfigError, match=r"clip_media\.windows is 2 and encode_latents\.windows is 1.* media\.windows"
    ):
        read_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("windows = 2", "window = 2", r"unknown key 'media\.window'; did you mean 'windows'"),
        ("[codecs.text]", "[codecs.texts]", r"unknown key 'codecs\.texts'; did you mean 'text'"),
        ('name = "bytes"', "", r"'codecs\.text\.name' is missing"),
        ("windows = 2", "windows = 0", r"windows is 0; it must be 1 or more"),
    ],
)
def test_a_wrong_key_at_the_head_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, HEAD.replace(old, new)))
