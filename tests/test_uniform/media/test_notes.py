"""Notes are codes and values; the sentences of 0.3.0 are still read."""

import pytest

from uniform.media.notes import SOURCE, Note, audio_gap, missing_audio_ms, read_note


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "sentence"),
    [
        (0, 1_476, "audio starts 1,476 ms late"),
        (2_020, 4_000, "audio ends 1,980 ms early"),
        (1_279, 1_372, "audio pauses for 93 ms at 1,279 ms"),
    ],
)
def test_a_gap_keeps_its_values_and_its_sentence_through_the_ledger(start_ms: int, end_ms: int, sentence: str) -> None:
    note = audio_gap(start_ms, end_ms, 4_000)
    other = Note(SOURCE, "fetched at 360p")

    assert note.text() == f"audio_gap_ms={end_ms - start_ms} start_ms={start_ms} clip_ms=4000"
    assert read_note(note.text()) == note
    assert str(note) == sentence
    assert missing_audio_ms([note, other, note]) == 2 * (end_ms - start_ms)


@pytest.mark.parametrize(
    "sentence", ["audio starts 1,476 ms late", "audio ends 1,980 ms early", "audio pauses for 93 ms at 1,279 ms"]
)
def test_a_sentence_of_0_3_0_gives_the_same_milliseconds_and_the_same_sentence(sentence: str) -> None:
    note = read_note(sentence)

    assert missing_audio_ms([note]) == int(sentence.split(" ms")[0].split()[-1].replace(",", ""))
    assert str(note) == sentence
    assert str(read_note(note.text())) == sentence


@pytest.mark.parametrize("text", ["format 0, unknown height", "a=b", 'x="open', "", "tall = 3", "número=1 ü"])
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert str(read_note(text)) == text
    assert str(read_note(Note(SOURCE, text).text())) == text
