"""A text codec without weights: one token a word, its features a hash of the word's letters.

Equal words give equal features, different words nearly orthogonal ones, and words that share letters ("dog", "dogs")
are a little alike. The last dimensions of a token encode its position in the caption, so that a model that reads tokens
as a set has the word order. All values come from SHAKE-256 and sines, so they are equal on every machine.
"""

import hashlib
import math
import unicodedata

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniform.codecs.base import CodecCard
from uniform.errors import ConfigError
from uniform.spec import Spec

WIDTH = 64
MAX_TOKENS = 32
PLACE_WIDTH = 8
"""Dimensions at the end of a token for its position: sine and cosine of four wavelengths."""
LETTERS_SHARE = 0.25
"""Part of a word's variance that comes from its three-letter parts; the rest is of the whole word."""


def open_codec(
    name: str, spec: Spec, device: str = "cpu", width: int = WIDTH, max_tokens: int = MAX_TOKENS
) -> "BytesText":
    """The codec; `spec` and `device` change nothing, since captions have no geometry and hashes need no accelerator."""
    return BytesText(name=name, width=width, max_tokens=max_tokens)


class BytesText:
    """Captions to hashed word features.

    Args:
        width: dimensions per token, even and above `PLACE_WIDTH`.
        max_tokens: words and signs per caption; longer captions are cut.
    """

    def __init__(self, *, name: str = "bytes", width: int = WIDTH, max_tokens: int = MAX_TOKENS) -> None:
        if width <= PLACE_WIDTH or max_tokens < 1:
            raise ConfigError(
                f"codec '{name}': width is {width} and max_tokens {max_tokens}; "
                f"wanted a width above {PLACE_WIDTH} and 1 token or more"
            )
        self.width = width
        self.max_tokens = max_tokens
        self.card = CodecCard(
            name=name,
            code_version=1,
            settings={"width": width, "max_tokens": max_tokens},
            weights_sha256=None,
        )

    def encode(self, captions: list[str]) -> list[Tensor]:
        """One float32 (tokens, width) per caption, 1 to `max_tokens` tokens; an empty caption is one token."""
        return [self._encode(words(caption)[: self.max_tokens] or [""]) for caption in captions]

    def count_tokens(self, caption: str) -> int:
        """Tokens of the caption before it is cut."""
        return len(words(caption)) or 1

    def _encode(self, tokens: list[str]) -> Tensor:  # -> (tokens, width)
        rows = [
            np.concatenate([_word(token, self.width - PLACE_WIDTH), _place(index)])
            for index, token in enumerate(tokens)
        ]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def words(caption: str) -> list[str]:
    """Words and signs of a caption, in order: case folded, compatibility forms unified, spaces dropped.

    Letters, marks and digits make words; every other sign is a word of its own, and so is each character of a script
    that writes no spaces (wide characters: Chinese, Japanese, Korean).
    """
    found: list[str] = []
    inside = False
    for character in unicodedata.normalize("NFKC", caption).casefold():
        kind = unicodedata.category(character)[0]
        if kind in "ZC":
            inside = False
        elif kind in "LMN" and (kind == "M" or unicodedata.east_asian_width(character) not in "WF"):
            if inside:
                found[-1] += character
            else:
                found.append(character)
            inside = True
        else:
            found.append(character)
            inside = False
    return found


def _word(word: str, width: int) -> NDArray[np.float64]:
    """Features of a word, about unit variance: (width,)."""
    whole = _hashed(f"word {word}", width)
    marked = f"<{word}>"
    trigrams = dict.fromkeys(marked[start : start + 3] for start in range(len(marked) - 2))
    if not trigrams:
        return whole
    letters = np.sum([_hashed(f"letters {trigram}", width) for trigram in trigrams], axis=0) / math.sqrt(len(trigrams))
    mixed: NDArray[np.float64] = math.sqrt(1 - LETTERS_SHARE) * whole + math.sqrt(LETTERS_SHARE) * letters
    return mixed


def _hashed(key: str, width: int) -> NDArray[np.float64]:
    """`width` values of mean 0 and variance 1 that depend on `key` only. Lone surrogates are allowed."""
    content = hashlib.shake_256(key.encode("utf-8", "surrogatepass")).digest(width)
    levels = np.frombuffer(content, dtype=np.uint8).astype(np.float64)
    numbers: NDArray[np.float64] = (levels - 127.5) / math.sqrt((256**2 - 1) / 12)
    return numbers


def _place(index: int) -> NDArray[np.float64]:
    """The position code of a token, unit variance: (PLACE_WIDTH,). Wavelengths of 4, 16, 64 and 256 tokens."""
    angles = 2 * np.pi * index / 4.0 ** np.arange(1, PLACE_WIDTH // 2 + 1)
    return math.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)])
