"""Clean captions as PixArt and Open-Sora do before T5: remove text that does not describe a scene.

The rules follow those projects (lower case; no URLs, markup, handles, CJK blocks, hashes, file names, adverts; plain
quotes and dashes; ftfy), written as a table. They run twice, as in the originals: a removal can expose another match.
"""

import html
import re
import warnings
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning

CLEANING_VERSION = 1
"""Raised with every change of a rule: it is part of a text codec's fingerprint."""
LONGEST_CAPTION = 5_000
"""Longer captions are cut here, in characters; 300 tokens hold far fewer."""

_IMAGE_SUFFIX = r"(?:png|jpe?g|bmp|webp|gif|tiff?|eps|pdf|apk|mp4)"

_BEFORE_MARKUP = (
    (r"<\s*person\s*>", "person"),  # WebVid's placeholder of a name is not markup
    (r"\bhttps?:/{1,3}\S*", " "),
    (r"\bwww\.\S+", " "),
    (r"\b[a-z0-9][a-z0-9.\-]*\.(?:com|co|ru|net|org|edu|gov|it)\b(?!@)(?:/\S*)?", " "),
)
_SIGNS = (
    (r"@[\w.\-]+", " "),  # handles
    ("[\u31c0-\u4dff\u4e00-\u9fff]+", " "),  # CJK strokes, enclosed and compatibility forms, hexagrams, ideographs
    (
        "[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u201e\u00a8]", '"'),
    ("[\u2018\u2019\u201a]", "'"),
    (r"&(?:quot|amp);?", " "),
)
_NUMBERS = (
    (r"\b\d{1,3}(?:\.\d{1,3}){3}\b", " "),  # network addresses
    (r"\b\d{1,2}:\d\d\s*$", " "),  # a time of day at the end, as in news captions
    (r"\\n", " "),  # a line break that was written out
    (r"#\d+\b", " "),
    (r"\b\d{6,}\b", " "),  # article numbers
    (rf"\S+\.{_IMAGE_SUFFIX}\b", " "),  # file names
)
_PUNCTUATION = (
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    ("[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~)(\\]\\[}{|\\\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_ADVERTS = (
    (r"\b[a-z]{1,3}\d{3,15}[a-z]{0,3}\b", " "),  # jc6640, jc6640vc
    (r"\b\d+[a-z]+\d+\b", " "),  # 6640vc231
    (r"\b(?:worldwide\s+)?(?:free\s+)?shipping\b", " "),
    (r"\b(?:free\s+)?download(?:\s+free)?\b", " "),
    (r"\bclick\b\s(?:for|on)\s\w+", " "),
    (rf"\b{_IMAGE_SUFFIX}(?:\s+images?)?\b", " "),
    (r"\bpage\s+\d+\b", " "),
    (
        r"\b\d+(?:\.\d+)?[x\u0445\u00d7]\d+(?:\.\d+)?\b",
        " ",
    ),  # sizes in pixels, with a Latin, a Cyrillic or a true cross
)
_SPACING = (
    (r"\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\s\"'_,.\-:;+]+", ""),
    (r"[\s\"'_,:+\-]+$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(caption: str) -> str:
    """Clean `caption` for the text encoder: lower case, one line, possibly empty.

    Datasets and the sampler use the same function, so both give the same text.
    """
    return _clean_once(_clean_once(caption[:LONGEST_CAPTION]))


def _clean_once(text: str) -> str:
    # Encoding damage is fixed before the case is lowered; after that, as in the original, it is not recognised.
    text = _apply(_BEFORE_MARKUP, ftfy.fix_text(unquote_plus(text)).strip().lower())
    text = _apply(_PUNCTUATION, _apply(_NUMBERS, _apply(_SIGNS, _without_markup(text))))
    if len(re.findall(r"[-_]", text)) > 3:  # a slug, not a sentence with hyphens
        text = re.sub(r"[-_]+", " ", text)
    text = html.unescape(html.unescape(text)).strip()
    return _apply(_SPACING, _apply(_ADVERTS, text)).strip()


def _without_markup(text: str) -> str:
    if "<" not in text and "&" not in text:
        return text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # a caption may look like a file name
        return BeautifulSoup(text, features="html.parser").get_text()


def _apply(rules: tuple[tuple[str, str], ...], text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text
