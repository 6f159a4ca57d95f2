"""Muon against torch's, which computes in bfloat16, and against what it is for."""

import pytest
import torch
from torch import nn

from uniform.training.optimiser.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 32)])
def test_updates_are_torchs_but_for_its_rounding(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.empty(shape))
    theirs.data.copy_(ours.data)
    before = ours.detach().clone()
    optimisers = [
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95),
    ]
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()

    assert (ours - before).norm() > 0.05
    assert torch.allclose(ours, theirs, atol=1e-3), "bfloat16 keeps 8 bits; the steps are up to 0.05"


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_no_direction_is_stepped_along_more_than_others(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    sizes = torch.linalg.svdvals(orthogonalised(matrix))

    assert sizes.min() > 0.5
    assert sizes.max() < 1.3


def test_a_gradient_of_zero_moves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([parameter], lr=0.1).step()

    assert torch.equal(parameter.data, torch.ones(4, 4))
