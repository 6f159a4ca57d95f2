"""The gate: which texts it rejects, which sentences it cuts, which captions pass."""

import pytest

from pipelines.codes import CODES
from uniform.captioning.gate import GateResult, Rules, check_text, sentences

GOOD = (
    "A man in a red coat plays an old drum beside a quiet river. "
    "Behind him two children sit on the wet grass and watch. "
    "The evening light is soft and the camera stays close to his hands."
)
SYSTEM = "You write captions for short videos. Write only what can be seen, in one paragraph of plain sentences."
USER = "Describe the video in detail and name its visible sources of sound."


def checked(text: str, finish: str = "stop", **rules: object) -> GateResult:
    return check_text(text, finish, (SYSTEM, USER), Rules(**rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Rain.",
        "رجل يعزف على الطبل بجانب النهر. الضوء ناعم والكاميرا ثابتة.",
        "一个穿红衣服的男人在安静的河边打鼓。两个孩子坐在他身后的湿草地上看着他。",
        "नदी के किनारे एक आदमी ढोल बजाता है।",
        "A 3.5 m boat passes at 8:30. It is no. 12 of 40.",
        "The man says that he is sorry for the noise, then drums again.",
        "A woman sings la la la and the crowd claps.",
        "Do not disturb is written on the gate, which a child opens.",
        "The video shows no one but a dog. It runs and runs along the beach.",
    ],
)
def test_good_captions_in_any_script_pass_unchanged(text: str) -> None:
    found = checked(text)

    assert (found.fault, found.caption, found.notes) == (None, text, ())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "caption_empty"),
        (" \n\t ", "caption_empty"),
        ("...", "caption_empty"),
        (USER, "caption_echo"),
        (USER.lower().rstrip("."), "caption_echo"),
        (f"{SYSTEM} A dog.", "caption_echo"),
        ("USER: what is this? ASSISTANT: a dog", "caption_echo"),
        ("A dog.<|im_end|>", "caption_echo"),
        ("I'm sorry, but I cannot see the video.", "caption_refusal"),
        ("I’m unable to view videos.", "caption_refusal"),
        ("As an AI language model, I describe pictures.", "caption_refusal"),
        ("No video was provided.", "caption_refusal"),
        ("\ufffd\ufffd a dog", "caption_language"),
        ("{'a': 1, 'b': [2, 3]} == 4 // 5;;", "caption_language"),
        ("A " + "ab" + "cdefghijkl" * 5 + " dog.", "caption_language"),
        ("very very very very big dog", "caption_loop"),
        ("A dog runs and a cat runs and a cat runs and a cat runs", "caption_loop"),
        ("A dog runs. It is day. A dog runs. It is warm. A dog runs.", "caption_loop"),
        ("哈哈哈哈哈哈哈哈哈哈哈哈", "caption_loop"),
        (" ".join(["the red ball and the blue ball in the sun", "the blue ball and the red ball"] * 6), "caption_loop"),
        ("There are no texts in the video.", "caption_filler"),
        ("The video does not contain any sound. No subtitles are visible.", "caption_filler"),
    ],
)
def test_a_text_that_is_not_a_caption_gets_a_drop_code(text: str, code: str) -> None:
    found = checked(text)

    assert (found.fault, found.fixed) == (code, None)
    assert found.reason
    assert CODES[code].policy == "rejected"


def test_sentences_on_what_is_absent_are_cut_and_noted() -> None:
    found = checked(f"{GOOD} There are no visible texts in the video. The video does not contain any sound.")

    assert (found.fault, found.caption) == (None, GOOD)
    assert found.notes == ("2 sentences on what is absent cut, for instance: There are no visible texts in the video.",)
    kept = checked(f"{GOOD} There are no texts.", drop_filler=False)
    assert kept.caption.endswith("There are no texts.")


def test_a_caption_cut_at_the_limit_is_fixed_to_whole_sentences() -> None:
    found = checked(f"{GOOD} In the far", "length")

    assert (found.fault, found.fixed) == ("caption_cut", GOOD)
    assert checked(GOOD, "length").fault is None
    assert checked("A man in a red", "length").fixed is None
    assert checked("A man in a red", "length", accept=("caption_cut",)).fault is None


def test_a_caption_longer_than_the_text_encoder_keeps_whole_sentences() -> None:
    found = checked(GOOD, most_words=30)

    assert found.fault == "caption_long"
    assert found.fixed == " ".join(sentences(GOOD)[:2])
    assert checked("word " * 5, most_words=4).fault == "caption_loop"
    assert checked("one two three four five", most_words=4).fixed is None


def test_lines_controls_and_forms_of_unicode_become_one_clean_line() -> None:
    assert checked("A cafe\u0301\n\non a  street.\x00").caption == "A café on a street."


def test_a_very_long_text_is_checked_in_bounded_time() -> None:
    assert checked("dog " * 100_000).fault == "caption_loop"
    assert checked("<script>alert(1)</script> is written on a sign.").caption.startswith("<script>")


def test_accepted_faults_pass() -> None:
    assert checked("very very very very big dog", accept=("caption_loop",)).fault is None
    assert Rules(accept=("b", "a")).provenance()["accept"] == ["a", "b"]
    assert Rules().provenance() != Rules(most_words=100).provenance()
