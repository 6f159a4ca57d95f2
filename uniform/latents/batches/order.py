"""A shuffled order that is computed, not stored: position i of epoch e holds clip `permute(i)`.

A keyed Feistel network is a bijection on 4^h numbers; walking its cycle until the value is below `size` makes it a
bijection on 0 .. size-1. So any position of any epoch costs the same, nothing must be replayed to resume, and every
clip comes exactly once per epoch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: keeps 0 from being a fixed point of `mix`."""
_ODD = np.uint64(0xD1342543DE82EF95)
MIN_HALF_BITS = 3
"""A domain of 64 numbers at least: smaller ones would know few permutations."""


def mix(words: Words) -> Words:
    """Scramble 64-bit words, each on its own (the finaliser of SplitMix64). Pure; a bijection."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def keyed(seed: int, *parts: int | npt.NDArray[Any]) -> Words:
    """64 random-looking bits for each element of the broadcast `parts` under `seed`. Pure.

    Args:
        seed: any Python integer; only its low 64 bits count.
        parts: integers or integer arrays that broadcast against each other.
    """
    words = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + _GOLDEN)
    for part in parts:
        more = np.atleast_1d(np.asarray(part)).astype(np.uint64)
        words = mix(words * _ODD + mix(more + _GOLDEN))  # not symmetric: key (1, 2) is not key (2, 1)
    return words


def permute(positions: npt.NDArray[np.int64], size: int, keys: Words) -> npt.NDArray[np.int64]:
    """Which element stands at each position of a shuffled range.

    Args:
        positions: (N,), each in 0 .. size-1.
        size: length of the range, 1 or more.
        keys: (N,), one key per position; positions with the same key belong to the same permutation.
    Returns: (N,), each in 0 .. size-1; a bijection for a fixed key.
    Raises: ValueError where a position leaves the range.
    """
    return _walk(_encrypt, positions, size, keys)


def unpermute(elements: npt.NDArray[np.int64], size: int, keys: Words) -> npt.NDArray[np.int64]:
    """At which position of a shuffled range each element stands: the inverse of `permute`, at the same cost.

    Args: as `permute`, with elements for positions.
    Raises: ValueError where an element leaves the range.
    """
    return _walk(_decrypt, elements, size, keys)


def _walk(
    step: Callable[[Words, int, Words], Words], numbers: npt.NDArray[np.int64], size: int, keys: Words
) -> npt.NDArray[np.int64]:
    """Follow each number's cycle until it is inside the range again."""
    if size < 1 or (len(numbers) and (numbers.min() < 0 or numbers.max() >= size)):
        raise ValueError(f"positions must lie in 0 .. {size - 1}")
    half_bits = max(MIN_HALF_BITS, (max(size - 1, 1).bit_length() + 1) // 2)
    values = step(numbers.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = step(values[outside], half_bits, keys[outside])
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _encrypt(values: Words, half_bits: int, keys: Words) -> Words:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(right + mix(keys + np.uint64(number))) & mask)
    return (left << shift) | right


def _decrypt(values: Words, half_bits: int, keys: Words) -> Words:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for number in reversed(range(ROUNDS)):
        left, right = right ^ (mix(left + mix(keys + np.uint64(number))) & mask), left
    return (left << shift) | right
