"""Remarks on sound that is missing where there is picture: how they are worded, and read again.

They travel in the ledger from the stage that cuts a clip to the one that judges it.
"""

import re
from collections.abc import Iterable

_LATE, _EARLY, _PAUSE = "audio starts {} ms late", "audio ends {} ms early", "audio pauses for {} ms at {} ms"
_GAP = re.compile(r"audio (?:starts|ends|pauses for) ([\d,]+) ms(?: late| early| at [\d,]+ ms)")


def gap_remark(begin_ms: int, end_ms: int, clip_ms: int) -> str:
    """Words for a gap in the sound of a clip of `clip_ms`, which reaches from `begin_ms` to `end_ms`."""
    length = f"{end_ms - begin_ms:,}"
    if begin_ms == 0:
        return _LATE.format(length)
    return _EARLY.format(length) if end_ms >= clip_ms else _PAUSE.format(length, f"{begin_ms:,}")


def missing_sound_ms(remarks: Iterable[str]) -> int:
    """Milliseconds without sound, by the remarks on a clip; other remarks do not count."""
    gaps = (_GAP.fullmatch(remark) for remark in remarks)
    return sum(int(gap[1].replace(",", "")) for gap in gaps if gap)
