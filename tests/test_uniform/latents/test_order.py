"""The computed order: a bijection for every size, another one for every key, and fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.latents.batches.order import keyed, permute


@given(size=st.integers(1, 3000), seed=st.integers(-(2**70), 2**70))
@settings(max_examples=60, deadline=None)
def test_every_position_of_an_epoch_holds_another_clip(size: int, seed: int) -> None:
    order = permute(np.arange(size), size, np.broadcast_to(keyed(seed, 1), (size,)))

    assert np.array_equal(np.sort(order), np.arange(size))


def test_a_position_alone_gives_what_it_gives_among_all() -> None:
    keys = np.broadcast_to(keyed(7, 3), (1000,))
    whole = permute(np.arange(1000), 1000, keys)

    assert [int(permute(np.array([n]), 1000, keys[:1])[0]) for n in (0, 1, 500, 999)] == whole[
        [0, 1, 500, 999]
    ].tolist()


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = {
        tuple(permute(np.arange(50), 50, np.broadcast_to(keyed(seed, epoch), (50,))).tolist())
        for seed in range(5)
        for epoch in range(5)
    }

    assert len(orders) == 25


def test_every_clip_comes_to_every_place_equally_often() -> None:
    counts = np.zeros((7, 7))
    epochs = 7000
    keys = keyed(11, np.repeat(np.arange(epochs), 7))
    order = permute(np.tile(np.arange(7), epochs), 7, keys).reshape(epochs, 7)
    for place in range(7):
        counts[place] = np.bincount(order[:, place], minlength=7)

    chi_square = ((counts - epochs / 7) ** 2 / (epochs / 7)).sum()
    assert chi_square < 80  # 36 degrees of freedom: 36 expected, 80 has probability 3e-5


def test_a_position_outside_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 \.\. 9"):
        permute(np.array([10]), 10, keyed(0, 0))
