"""Rectified flow: the line, its times and the shift."""

import pytest
import torch

from uniform.diffusion.flow import Flow
from uniform.pair import Pair


def test_times_are_logit_normal_and_shifted() -> None:
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000

    plain, shifted = Flow().draw_times(u), Flow(shift=3.0).draw_times(u)

    assert float(plain.median()) == pytest.approx(500, abs=1)
    assert float((plain / 1000).logit().std()) == pytest.approx(1, abs=0.02)
    assert float(shifted.median()) == pytest.approx(750, abs=1)


def test_uniform_times_are_uniform() -> None:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    assert torch.allclose(Flow(logit_normal=False).draw_times(u).double(), u * 1000, atol=1e-3)


def test_extreme_draws_stay_inside() -> None:
    times = Flow().draw_times(torch.tensor([0.0, 1 - 1e-9], dtype=torch.float64))

    assert 0 < float(times.min()) < float(times.max()) <= 1000
    assert bool(times.isfinite().all())


def test_noise_is_mixed_in_on_a_straight_line() -> None:
    clean, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    times = torch.tensor([0.0, 250.0, 1000.0])

    mixed = Flow().add_noise(clean, noise, times)

    assert torch.equal(mixed[0], clean[0])
    assert torch.allclose(mixed[1], 0.75 * clean[1] + 0.25 * noise[1])
    assert torch.equal(mixed[2], noise[2])


def test_variance_logits_are_cut_off_where_the_network_has_them() -> None:
    clean = Pair(torch.randn(2, 4, 2, 2, 2), torch.randn(2, 8, 4, 2))
    noise = clean.map(torch.randn_like)
    every = torch.ones(2, dtype=torch.bool)
    predicted = Pair(*(torch.cat([x - n, torch.full_like(x, 9.0)], dim=1) for x, n in zip(clean, noise, strict=True)))

    losses = Flow().losses(lambda noisy, time: predicted, clean, noise, torch.full((2,), 300.0), Pair(every, every))

    assert float(losses.total.max()) < 1e-9
