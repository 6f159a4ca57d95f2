"""What a snapshot of a run holds."""

import torch

from uniform.checkpoint_format import MODEL, OPTIMISER
from uniform.model.transformer import UniForm
from uniform.spec import TOY
from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser
from uniform.training.settings.presets import load_config
from uniform.training.state import State


def tiny_state() -> State:
    config = load_config("toy", ["model.width=32", "model.depth=1"])
    model = UniForm(config.model, TOY.video_latent, TOY.audio_latent)
    return State(model, Ema(model, config.ema), Optimiser(model, config.optimiser))


def update(state: State) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.update(1e-2)


def test_a_snapshot_does_not_follow_the_training_that_goes_on() -> None:
    state = tiny_state()
    snapshot = state.snapshot({})
    name, before = next((name, p.detach().clone()) for name, p in state.model.named_parameters())
    update(state)

    assert torch.equal(snapshot.tensors[MODEL][name], before)


def test_the_next_snapshot_is_new_and_takes_the_memory_of_the_last() -> None:
    state = tiny_state()
    update(state)
    first = {name: tensor.data_ptr() for name, tensor in state.snapshot({}).tensors[OPTIMISER].items()}
    update(state)
    second = state.snapshot({}).tensors

    assert {name: tensor.data_ptr() for name, tensor in second[OPTIMISER].items()} == first
    for name, parameter in state.model.named_parameters():
        assert torch.equal(second[MODEL][name], parameter), name
