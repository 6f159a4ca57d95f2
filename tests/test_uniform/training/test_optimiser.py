"""The optimiser against the formulas, the schedule against its definition."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser, clip_gradients, learning_rate
from uniform.training.settings.config import EmaConfig, OptimiserConfig


def reference(weights: torch.Tensor, gradients: list[torch.Tensor], rate: float, decay: float) -> torch.Tensor:
    """Adam with bias correction and decoupled decay, as HybridAdam's adamw_mode computes it, in float64."""
    p, m, v = weights.double(), torch.zeros(weights.shape).double(), torch.zeros(weights.shape).double()
    for step, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p * (1 - rate * decay)
        p = p - rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return p


KINDS: tuple[Literal["muon", "adamw"], ...] = ("muon", "adamw")


class Tiny(nn.Module):
    """One matrix inside a block, and what stands around blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = nn.Linear(6, 6)
        self.spatial_blocks = nn.ModuleList([nn.Linear(6, 6)])


@pytest.mark.parametrize("offload", [False, True])
def test_updates_are_those_of_the_formula(offload: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    before = model.weight.detach().clone()
    gradients = [torch.randn(5, 6) for _ in range(7)]
    optimiser = Optimiser(model, OptimiserConfig(weight_decay=0.1, offload=offload))
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        optimiser.update(1e-2)

    assert torch.allclose(model.weight.double(), reference(before, gradients, 1e-2, 0.1), atol=1e-6)
    assert model.weight.grad is None


def test_decay_touches_matrices_only() -> None:
    model = nn.Linear(3, 3)
    nn.init.ones_(model.bias)
    optimiser = Optimiser(model, OptimiserConfig(weight_decay=0.5))
    before = model.weight.detach().clone()
    model.weight.grad, model.bias.grad = torch.zeros(3, 3), torch.zeros(3)
    optimiser.update(0.1)

    assert torch.equal(model.bias, torch.ones(3))
    assert torch.allclose(model.weight, before * 0.95)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offload", [False, True])
def test_state_goes_on_where_it_was_bit_for_bit(kind: Literal["adamw", "muon"], offload: bool) -> None:
    config = OptimiserConfig(kind=kind, offload=offload)

    def three_steps(stop: bool) -> torch.Tensor:
        torch.manual_seed(1)
        model = Tiny()
        optimiser = Optimiser(model, config)
        for number in range(3):
            if stop and number == 2:
                state = {name: {k: v.clone() for k, v in kinds.items()} for name, kinds in optimiser.state().items()}
                optimiser = Optimiser(model, config)
                optimiser.load_state(state)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape)
            optimiser.update(1e-2)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(three_steps(stop=True), three_steps(stop=False))


def test_muon_steps_along_an_orthogonal_matrix_inside_blocks_and_adam_steps_elsewhere() -> None:
    torch.manual_seed(0)
    models = [Tiny(), Tiny()]
    models[1].load_state_dict(models[0].state_dict())
    before = models[0].spatial_blocks[0].weight.detach().clone()
    for model, kind in zip(models, KINDS, strict=True):
        optimiser = Optimiser(model, OptimiserConfig(kind=kind, learning_rate=1e-2, muon_rate=0.02))
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape)
        optimiser.update(0.5e-2)  # half of the rate, so half of Muon's too

    stepped = (before - models[0].spatial_blocks[0].weight.detach()) / 0.01
    sizes = torch.linalg.svdvals(stepped)
    assert sizes.min() > 0.5, "each direction is stepped along"
    assert sizes.max() < 1.5, "and none more than others"
    for name in ("x_embedder.weight", "x_embedder.bias", "spatial_blocks.0.bias"):
        assert torch.equal(models[0].state_dict()[name], models[1].state_dict()[name]), name


def test_warm_up_is_linear_and_then_constant() -> None:
    config = OptimiserConfig(learning_rate=1e-4, warmup_steps=1000)

    assert learning_rate(config, 0, 5000) == pytest.approx(1e-4 / 1001)
    assert learning_rate(config, 499, 5000) == pytest.approx(1e-4 * 500 / 1001)
    assert learning_rate(config, 1000, 5000) == 1e-4
    assert learning_rate(config, 10**7, 5000) == 1e-4


def test_the_cosine_ends_at_its_final_share() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=10, schedule="cosine", final_share=0.1)

    assert learning_rate(config, 10, 110) == 1.0
    assert learning_rate(config, 60, 110) == pytest.approx(0.55)
    assert learning_rate(config, 110, 110) == pytest.approx(0.1)
    assert learning_rate(config, 500, 110) == pytest.approx(0.1)


def test_gradients_are_scaled_down_together_and_never_up() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    parameters[0].grad, parameters[1].grad = torch.full((3,), 2.0), torch.full((4,), 3.0)
    norm = clip_gradients(parameters, 1.0)
    assert float(norm) == pytest.approx(math.sqrt(12 + 36))
    assert math.hypot(*[float(p.grad.norm()) for p in parameters if p.grad is not None]) == pytest.approx(1, abs=1e-5)

    parameters[0].grad, parameters[1].grad = torch.full((3,), 0.1), torch.zeros(4)
    clip_gradients(parameters, 1.0)
    assert torch.allclose(parameters[0].grad, torch.full((3,), 0.1))


def test_the_average_follows_its_formula_and_begins_fast() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, EmaConfig(decay=0.9, ramp=False))
    nn.init.ones_(model.weight)
    for step in range(3):
        ema.update(dict(model.named_parameters()), step)
    assert float(ema.shadow["weight"]) == pytest.approx(1 - 0.9**3)

    ramped = Ema(model, EmaConfig(decay=0.9999))
    assert [ramped.decay_at(step) for step in (0, 90, 10**6)] == [0.1, 0.91, 0.9999]


def test_the_average_is_a_copy() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, EmaConfig())
    nn.init.zeros_(model.weight)

    assert not torch.equal(ema.shadow["weight"], model.weight)
