"""A gap in the sound is worded so that it can be read again."""

import pytest

from uniform.media.audio_gaps import gap_remark, missing_sound_ms


@pytest.mark.parametrize(
    ("begin_ms", "end_ms", "words"),
    [
        (0, 1_476, "audio starts 1,476 ms late"),
        (2_020, 4_000, "audio ends 1,980 ms early"),
        (1_279, 1_372, "audio pauses for 93 ms at 1,279 ms"),
    ],
)
def test_a_remark_says_where_and_how_long_and_is_read_again(begin_ms: int, end_ms: int, words: str) -> None:
    remark = gap_remark(begin_ms, end_ms, 4_000)

    assert remark == words
    assert missing_sound_ms([remark, "fetched at 360p", remark]) == 2 * (end_ms - begin_ms)
