"""The stateless draws: reproducible, independent of each other, of the right distribution."""

import numpy as np
import torch

from uniform.latents.batches.random_streams import Stream, choose, noise, tasks, uniforms
from uniform.pair import Pair
from uniform.tasks import Task

POSITIONS = np.arange(20_000, dtype=np.int64)


def test_a_draw_depends_on_nothing_but_seed_stream_and_position() -> None:
    whole = uniforms(3, Stream.TIME, POSITIONS)

    assert np.array_equal(uniforms(3, Stream.TIME, POSITIONS[5000:5010]), whole[5000:5010])
    assert not np.array_equal(uniforms(4, Stream.TIME, POSITIONS), whole)


def test_streams_are_uniform_and_uncorrelated() -> None:
    drawn = np.stack([uniforms(0, stream, POSITIONS) for stream in Stream])

    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.stack([np.histogram(row, bins=20, range=(0, 1))[0] for row in drawn])
    assert np.abs(counts - 1000).max() < 150  # five standard deviations
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.035
    assert abs(np.corrcoef(drawn[0][:-1], drawn[0][1:])[0, 1]) < 0.035


def test_tasks_follow_their_weights_and_weight_zero_is_never_drawn() -> None:
    drawn = tasks(1, POSITIONS, {Task.T2AV: 3.0, Task.V2A: 1.0})

    assert set(drawn.tolist()) == {Task.T2AV.number, Task.V2A.number}
    assert abs((drawn == Task.T2AV.number).mean() - 0.75) < 0.015


def test_choose_takes_the_first_choice_of_positive_weight_at_zero() -> None:
    assert choose(np.array([0.0, 0.999999]), np.array([0.0, 2.0, 0.0])).tolist() == [1, 1]


def test_noise_of_a_sample_is_the_same_in_every_batch() -> None:
    like = Pair(torch.zeros(4, 2, 3), torch.zeros(4, 5))
    whole = noise(9, np.array([4, 5, 6, 7]), like)
    part = noise(9, np.array([6]), like.map(lambda t: t[:1]))

    assert torch.equal(part.video[0], whole.video[2])
    assert torch.equal(part.audio[0], whole.audio[2])


def test_noise_is_standard_normal_and_differs_between_samples() -> None:
    drawn = noise(2, np.arange(400), Pair(torch.zeros(400, 50), torch.zeros(400, 30)))

    assert abs(float(drawn.video.mean())) < 0.04
    assert abs(float(drawn.audio.std()) - 1) < 0.04
    assert len(torch.unique(drawn.video[:, 0])) == 400
    assert not torch.equal(drawn.video[0, :30], drawn.audio[0])
