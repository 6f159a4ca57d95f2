"""A foreign JSON answer is a clean value or a ValueError, whatever it holds."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.clean_text import clean_line, without_surrogates
from uniform.untrusted_json import read_untrusted_json


def read(content: bytes | str) -> Any:
    return read_untrusted_json(content, max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"choices":' + b"[" * 400_000, "nested more than 64 levels"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 levels"),
        (b'{"tokens": Infinity}', "Infinity is not JSON"),
        (b'{"tokens": NaN}', "NaN is not JSON"),
        (b'{"tokens": 1e999}', "larger than a number can be"),
        (b'{"tokens": ' + b"9" * 5_000 + b"}", "a number of more than 400 characters"),
        (b"[" + b"0," * 400_000 + b"0" * 300_000 + b"]", "bytes of JSON|more than 400"),
        (b"\xff not json", "utf-8"),
        (b"", "Expecting value"),
        (b'{"a": 1', "delimiter"),
    ],
)
def test_a_hostile_document_is_a_value_error_with_its_reason(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(content)


def test_brackets_and_digits_inside_of_text_count_for_nothing() -> None:
    text = "[" * 1_000 + "9" * 1_000 + '\\"' + "{" * 100

    assert read(json.dumps({"text": text})) == {"text": text}


def test_a_lone_surrogate_becomes_the_replacement_character_and_a_pair_its_emoji() -> None:
    assert read(rb'{"a\ud83d": "dog \ud83d barks", "b": "\ud83d\udc36"}') == {
        "a\ufffd": "dog \ufffd barks",
        "b": "\U0001f436",
    }


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_give_a_value_or_a_value_error(content: bytes | str) -> None:
    try:
        value = read(content)
    except ValueError:
        return
    json.dumps(value, allow_nan=False).encode()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_an_honest_document_is_read_as_it_was_written(value: Any) -> None:
    found = read(json.dumps(value))

    assert found == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("HTTP 404 \x1b[31mred\x1b[0m \x1b]0;owned\x07end", "HTTP 404 red end"),
        ("a\u202eb\u200bc\ufeffd", "abcd"),
        ("first\nsecond\tthird\x00", "first second third"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("x\ud83d", "x\ufffd"),
    ],
)
def test_a_line_holds_nothing_that_moves_a_terminal(text: str, line: str) -> None:
    assert clean_line(text) == line


def test_a_long_line_is_cut_to_its_bound() -> None:
    assert clean_line("a" * 60_000, 400) == "a" * 397 + "..."
    assert without_surrogates("plain") == "plain"
