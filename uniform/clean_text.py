"""Text from outside, made safe to keep and to print: reasons, titles, captions, answers of servers."""

import re
import unicodedata

_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: part of words in Persian, Hindi and of emoji; kept."""


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, which no file can hold. Surrogate pairs become their character."""
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def clean_line(text: str, longest: int | None = None) -> str:
    """`text` as one line that a terminal, a table and a page can show.

    Terminal escapes, control and format characters (bidirectional marks, zero-width spaces, byte order marks, private
    use) leave; white space becomes single spaces.

    Args:
        longest: characters that are kept; the rest becomes "...". None keeps all.
    """
    text = _ESCAPES.sub("", without_surrogates(text))
    kept = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace()
        or character in _JOINERS
        or unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cs")
    )
    line = " ".join(kept.split())
    if longest is not None and len(line) > longest:
        return line[: max(longest - 3, 0)] + "..."
    return line
