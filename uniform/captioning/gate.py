"""The gate: check whether the text of a model is a caption. Each fault is a drop code; cutting fixes some faults.

The rules use the text alone and work in any script.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from uniform.captioning.base import Finish
from uniform.captioning.wording import clean

VERSION = 1
"""Raised with every change of a rule: part of a caption set's fingerprint."""

Fault = Literal[
    "caption_empty",
    "caption_echo",
    "caption_filler",
    "caption_cut",
    "caption_loop",
    "caption_refusal",
    "caption_language",
    "caption_long",
]

LONGEST_TEXT = 20_000
"""Characters that are checked."""
_END = ".!?…。！？؟۔।॥"
_BOUNDARY = re.compile(r"[.!?…؟۔।॥]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[\"'”’»)\]]*")
"""Scripts with spaces need one after a full stop: "3.5" does not end a sentence."""
_ROLES = re.compile(r"\b(USER|ASSISTANT|SYSTEM)\s*:|<image>|<video>|<\|\w+\|>|\[/?INST\]|</?s>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able)\b|\bi (?:can ?not|can't) (?:see|view|watch|access|process|provide|help)\b"
    r"|\bas an? (?:ai|artificial intelligence|language model)\b|\bplease (?:provide|upload|share) \w+ (?:video|image)"
    r"|\bno (?:video|image|picture)s? (?:was|were|has been|have been|is) (?:provided|given|uploaded|attached)",
    re.IGNORECASE,
)
_ABSENT = r"(?:text|subtitle|caption|watermark|logo|sound|audio|speech|dialogue|narration|music)s?\b"
_FILLER = re.compile(
    rf"\bthere (?:is|are|was|were) no (?:\w+ ){{0,3}}{_ABSENT}"
    rf"|\b(?:does|do|did) not (?:contain|have|show|feature|include|provide) (?:any |\w+ ){{0,3}}{_ABSENT}"
    rf"|\bno (?:visible |audible |other )?{_ABSENT}.{{0,40}}\b(?:visible|audible|present|seen|heard|shown)\b"
    rf"|\b(?:sound|audio)s?\b.{{0,40}}\b(?:cannot|can't|can not) be (?:heard|determined|described)",
    re.IGNORECASE,
)
_LONGEST_WORD = 40
_LETTERS_SHARE = 0.6
_LEAST_DISTINCT = 0.6
_ECHO_WORDS = 6


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Options of the gate."""

    most_words: int = 220
    """About as many English words as fit into T5's 300 tokens."""
    drop_filler: bool = True
    """Cut sentences that only say what is absent ("There are no texts in the video")."""
    accept: tuple[str, ...] = ()
    """Faults that are accepted."""

    def provenance(self) -> dict[str, Any]:
        """Everything that decides which captions are kept, for fingerprints."""
        return {"version": VERSION, **asdict(self), "accept": sorted(self.accept)}


@dataclass(frozen=True)
class GateResult:
    """The result of the gate for one text."""

    caption: str
    """The cleaned text, without the sentences that were cut."""
    fault: Fault | None
    reason: str
    """Details of the fault."""
    fixed: str | None
    """For a fault that cutting fixes: the caption after the cut."""
    notes: tuple[str, ...]
    """What was cut from the caption."""


def check_text(text: str, finish: Finish, prompt: Iterable[str], rules: Rules) -> GateResult:
    """Check the text of a model.

    Args:
        text: as the model wrote it.
        finish: whether the model ended it.
        prompt: system and user text of the prompt.
        rules: options of the gate.
    """
    caption = clean(text[:LONGEST_TEXT].replace("’", "'"))
    notes: tuple[str, ...] = ()
    fault = _first(_FAULTS, caption, list(prompt), rules)
    if fault is None and rules.drop_filler and (dropped := [s for s in sentences(caption) if _FILLER.search(s)]):
        left = clean(" ".join(s for s in sentences(caption) if s not in dropped))
        notes = (f"{len(dropped)} sentences on what is absent cut, for instance: {dropped[0]}",)
        if not left:
            fault = ("caption_filler", f"only names what is absent: {_short(caption)}")
        else:
            caption = left
    if fault is not None:
        return GateResult(caption, *fault, None, ())
    if finish == "length" and not _ended(caption) and "caption_cut" not in rules.accept:
        whole = " ".join(s for s in sentences(caption) if _ended(s))
        reason = f"cut at the model's limit: ...{caption[-60:]}"
        return GateResult(caption, "caption_cut", reason, _within(whole, rules.most_words), notes)
    words = len(caption.split())
    if words > rules.most_words and "caption_long" not in rules.accept:
        reason = f"{words} words, at most {rules.most_words}"
        return GateResult(caption, "caption_long", reason, _within(caption, rules.most_words), notes)
    return GateResult(caption, None, "", None, notes)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the spaces between them."""
    ends = [found.end() for found in _BOUNDARY.finditer(text)]
    parts = [text[begin:end].strip() for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def _first(faults: Sequence[Any], caption: str, prompt: list[str], rules: Rules) -> tuple[Fault, str] | None:
    for code, find in faults:
        reason = find(caption, prompt)
        if reason is not None and code not in rules.accept:
            return code, reason
    return None


def _empty(caption: str, prompt: list[str]) -> str | None:
    if any(unicodedata.category(sign)[0] in "LN" for sign in caption):
        return None
    return f"no words: {_short(caption)}" if caption else "the model wrote nothing"


def _echo(caption: str, prompt: list[str]) -> str | None:
    if found := _ROLES.search(caption):
        return f"holds '{found[0]}', a marker of the dialogue"
    words = _words(caption)
    runs = {run for text in prompt for run in _runs(_words(text), _ECHO_WORDS)}
    if any(words == _words(text) for text in prompt):
        return "the caption is the prompt"
    echoed = {
        place + i for place, run in enumerate(_runs(words, _ECHO_WORDS)) if run in runs for i in range(_ECHO_WORDS)
    }
    if len(echoed) * 2 > len(words):
        return f"{len(echoed)} of its {len(words)} words are from the prompt"
    return None


def _refusal(caption: str, prompt: list[str]) -> str | None:
    found = _REFUSAL.search(caption)
    return f"'{found[0]}': the model refuses or writes about itself" if found else None


def _language(caption: str, prompt: list[str]) -> str | None:
    signs = [sign for sign in caption if not sign.isspace()]
    letters = sum(unicodedata.category(sign)[0] in "LM" for sign in signs)
    if "\ufffd" in caption:
        return "holds broken characters"
    if letters < _LETTERS_SHARE * len(signs):
        return f"{letters} letters among {len(signs)} characters: {_short(caption)}"
    # Only scripts with capital letters always put spaces between words.
    long = next((w for w in caption.split() if len(w) > _LONGEST_WORD and w.lower() != w.upper()), None)
    return f"a word of {len(long)} letters: {_short(long)}" if long else None


def _loop(caption: str, prompt: list[str]) -> str | None:
    words = _words(caption)
    for size in range(1, 13):
        times, alike = (3 if size > 1 else 4), 0
        for place in range(size, len(words)):
            alike = alike + 1 if words[place] == words[place - size] else 0
            if alike >= (times - 1) * size:
                return f"'{_short(' '.join(words[place - size + 1 : place + 1]))}' comes {times} times in a row"
    if found := re.search(r"(\w{2,20}?)\1{4,}", caption):
        return f"'{found[1]}' comes 5 times in a row"
    fours = _runs(words, 4)
    if len(fours) > 30 and len(set(fours)) < _LEAST_DISTINCT * len(fours):
        return f"{len(set(fours))} different runs of four words among {len(fours)}"
    whole = [tuple(_words(s)) for s in sentences(caption) if len(_words(s)) > 2]
    most_often = max(whole, key=whole.count, default=())
    if whole.count(most_often) > 2:
        return f"a sentence comes {whole.count(most_often)} times: {_short(' '.join(most_often))}"
    return None


_FAULTS = (
    ("caption_empty", _empty),
    ("caption_echo", _echo),
    ("caption_refusal", _refusal),
    ("caption_language", _language),
    ("caption_loop", _loop),
)


def _within(caption: str, most_words: int) -> str | None:
    kept: list[str] = []
    for sentence in sentences(caption):
        if len(" ".join([*kept, sentence]).split()) > most_words:
            break
        kept.append(sentence)
    return " ".join(kept) or None


def _ended(text: str) -> bool:
    return text.rstrip("\"'”’»)] ").endswith(tuple(_END))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
