import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.codecs.base import TextCodec, open_text_codec
from uniform.codecs.text_bytes import PLACE_WIDTH, BytesText, words
from uniform.errors import ConfigError
from uniform.spec import TOY

CODEC = BytesText()


def word_part(caption: str) -> torch.Tensor:
    return CODEC.encode([caption])[0][:, :-PLACE_WIDTH]


def likeness(a: str, b: str) -> float:
    return float(torch.cosine_similarity(word_part(a)[0], word_part(b)[0], dim=0))


def test_a_caption_has_one_token_a_word() -> None:
    codec = open_text_codec("bytes", TOY)
    features = codec.encode(["a red ball", "dog"])

    assert isinstance(codec, TextCodec)
    assert [tuple(feature.shape) for feature in features] == [(3, 64), (1, 64)]
    assert features[0].dtype == torch.float32


def test_equal_words_have_equal_features_wherever_they_stand() -> None:
    assert torch.equal(word_part("dog barks")[0], word_part("A loud Dog")[2])


def test_different_words_are_nearly_orthogonal() -> None:
    vocabulary = [f"{stem}{end}" for stem in ("rain", "car", "violin", "hammer", "frog", "sea") for end in ("x", "er")]
    pairs = [(a, b) for a in vocabulary for b in vocabulary if a[:3] != b[:3]]

    likenesses = torch.tensor([likeness(a, b) for a, b in pairs])

    assert abs(likenesses.mean()) < 0.05
    assert likenesses.abs().max() < 0.6


def test_words_that_share_letters_are_a_little_alike() -> None:
    related = [("dog", "dogs"), ("hammer", "hammering"), ("violin", "violins"), ("barking", "barks"), ("bell", "bells")]

    assert sum(likeness(a, b) for a, b in related) / len(related) > 0.08


def test_word_order_is_kept() -> None:
    first, second = CODEC.encode(["dog then cat", "cat then dog"])

    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[2])
    assert torch.equal(first[0, :-PLACE_WIDTH], second[2, :-PLACE_WIDTH])


def test_an_empty_caption_is_one_token_unlike_any_word() -> None:
    empty, blank, word = CODEC.encode(["", " \n\t", "a"])

    assert empty.shape == (1, 64)
    assert torch.equal(empty, blank)
    assert not torch.equal(empty, word)


def test_long_captions_are_cut_and_count_all_tokens() -> None:
    caption = "drum " * 10_000

    assert CODEC.encode([caption])[0].shape == (CODEC.max_tokens, 64)
    assert CODEC.count_tokens(caption) == 10_000


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog barks, twice!", ["a", "dog", "barks", ",", "twice", "!"]),
        ("Café  CAFE\u0301 ﬁre", ["café", "café", "fire"]),
        ("犬が吠える", ["犬", "が", "吠", "え", "る"]),
        ("हिन्दी बोल", ["हिन्दी", "बोल"]),
        ("🐶 barks", ["🐶", "barks"]),
        ("Straße 42nd", ["strasse", "42nd"]),
    ],
)
def test_words_of_every_script(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_finite_features_of_about_unit_size(caption: str) -> None:
    (features,) = CODEC.encode([caption])

    assert 1 <= len(features) <= CODEC.max_tokens
    assert features.isfinite().all()
    assert features.square().mean().sqrt() < 1.5


def test_features_are_the_same_in_another_process() -> None:
    code = (
        "from uniform.codecs.text_bytes import BytesText; print(BytesText().encode(['a dog, twice'])[0].sum().item())"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert float(found) == CODEC.encode(["a dog, twice"])[0].sum().item()


def test_features_do_not_depend_on_the_other_captions() -> None:
    assert torch.equal(CODEC.encode(["x y", "red ball", "z"])[1], CODEC.encode(["red ball"])[0])


@pytest.mark.parametrize("options", [{"width": 8}, {"max_tokens": 0}])
def test_invalid_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        open_text_codec("bytes", TOY, **options)


def test_the_fingerprint_differs_between_settings() -> None:
    assert BytesText().card.fingerprint == BytesText().card.fingerprint
    assert BytesText(max_tokens=16).card.fingerprint != BytesText().card.fingerprint
