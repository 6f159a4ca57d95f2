"""CLIP's byte-pair tokens, from the published vocabulary file `bpe_simple_vocab_16e6.txt.gz`.

Source: Radford et al. (arXiv:2103.00020); the rules of github.com/openai/CLIP (MIT). ImageBind reads text so.
"""

import gzip
import html
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from ftfy import fix_text
from torch import Tensor

from uniform.errors import WeightsError

CONTEXT = 77
MERGES = 49_152 - 256 - 2
START, END = 49_406, 49_407
_MOST_BYTES = 8_000_000
_LONGEST_TEXT = 10_000
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")


def byte_letters() -> dict[int, str]:
    """A printable letter for every byte: itself where it prints, else the next unused one from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    letters = {byte: chr(byte) for byte in printing}
    others = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _kind(letter: str) -> str:
    category = unicodedata.category(letter)[0]
    return "space" if letter.isspace() else category if category in "LN" else "other"


def words_of(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single digits and runs of other signs, in the order of the text (lower case)."""
    at = 0
    while at < len(text):
        kind, contraction = _kind(text[at]), _CONTRACTION.match(text, at)
        if contraction:
            end = contraction.end()
        elif kind == "N":
            end = at + 1
        else:
            end = next((i for i in range(at, len(text)) if _kind(text[i]) != kind), len(text))
        if kind != "space":
            yield text[at:end]
        at = end


@dataclass(frozen=True)
class ClipTokens:
    """Text to token numbers."""

    merges: tuple[tuple[str, str], ...]
    """48,894 pairs, the most frequent first."""

    @classmethod
    def from_file(cls, path: Path) -> "ClipTokens":
        """Read the vocabulary. Raises WeightsError where it is missing, damaged or of another size."""
        try:
            with gzip.open(path, "rb") as file:
                content = file.read(_MOST_BYTES + 1)
            lines = content.decode().split("\n")[1 : MERGES + 1]
            pairs = tuple(tuple(line.split()) for line in lines)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: cannot be read ({error}). Fetch CLIP's vocabulary again.") from error
        if len(content) > _MOST_BYTES or len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
            raise WeightsError(f"{path}: not CLIP's vocabulary: wanted a line of head and {MERGES:,} pairs or more")
        return cls(tuple((pair[0], pair[1]) for pair in pairs))

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        letters = list(byte_letters().values())
        words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in self.merges)]
        return {word: number for number, word in enumerate(words)}

    def ids(self, texts: Sequence[str]) -> Tensor:
        """int64 (B, 77): start, tokens, end, zeros. A longer text is cut and keeps its end token."""
        rows = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            numbers = [START, *self._text(text)[: CONTEXT - 2], END]
            row[: len(numbers)] = torch.tensor(numbers)
        return rows

    def _text(self, text: str) -> list[int]:
        plain = html.unescape(html.unescape(fix_text(text[:_LONGEST_TEXT])))
        words = words_of(" ".join(plain.split()).lower())
        letters = byte_letters()
        return [
            self._numbers[part]
            for word in words
            for part in self._merged("".join(letters[byte] for byte in word.encode()))
        ]

    def _merged(self, word: str) -> list[str]:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, MERGES))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        return parts
