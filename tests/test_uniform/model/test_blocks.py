"""Blocks: attention equals the formulas in space and time; the gradient does not depend on how it is computed."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from uniform.model.blocks import Block, Context, SelfAttention, modulate, rotate, rotation_table, select_modulation
from uniform.model.config import Checkpointing

B, T, S, D, H = 2, 3, 4, 16, 2
K = D // H
FREQUENCIES = 10_000.0 ** (-torch.arange(0, K, 2) / K)


def context(visible: Tensor | None = None) -> Context:
    generator = torch.Generator().manual_seed(0)
    return Context(
        modulation=torch.randn(B, 2, 6, D, generator=generator),
        level=torch.tensor([0, 0, 1, 1])[None, None],
        text_mask=torch.tensor([[True, True, False], [True, True, True]])[:, None, None],
        rotation=rotation_table(FREQUENCIES, T),
        visible=visible,
    )


def tokens() -> Tensor:
    return torch.randn(B, T, S, D, generator=torch.Generator().manual_seed(1))


def plain_attention(layer: SelfAttention, x: Tensor, *, rotated: bool) -> Tensor:
    """Softmax attention over sequences (N, length, D), written out."""
    q, k, v = layer.qkv(x).view(*x.shape[:2], 3, H, K).permute(2, 0, 3, 1, 4)  # (N, H, length, K)
    q, k = (
        norm.weight * each * (each.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        for norm, each in ((layer.q_norm, q), (layer.k_norm, k))
    )
    if rotated:
        q, k = turned(q), turned(k)
    weights = (q @ k.transpose(-1, -2) / K**0.5).softmax(dim=-1)
    return layer.proj((weights @ v).transpose(1, 2).flatten(2))


def turned(x: Tensor) -> Tensor:
    """Rotary position as a product of complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    angles = torch.arange(x.shape[2])[:, None] * FREQUENCIES
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize("temporal", [False, True], ids=["spatial", "temporal"])
@torch.no_grad()
def test_attention_is_softmax_over_its_axis(temporal: bool) -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(D, H, temporal=temporal, qk_norm=True), tokens()
    layer.q_norm.weight += torch.randn(K)

    found = layer(x, context())

    if temporal:
        lines = x.transpose(1, 2).flatten(0, 1)
        wanted = plain_attention(layer, lines, rotated=True).unflatten(0, (B, S)).transpose(1, 2)
    else:
        wanted = plain_attention(layer, x.flatten(0, 1), rotated=False).unflatten(0, (B, T))
    assert found.shape == (B, T, S, D)
    assert torch.allclose(found, wanted, atol=1e-5)


@torch.no_grad()
def test_hidden_tokens_have_no_influence_in_space() -> None:
    layer, x = SelfAttention(D, H, temporal=False, qk_norm=False), tokens()
    visible = torch.tensor([0, 0, 1, 1])[:, None] == torch.tensor([0, 0, 1, 1])
    changed = x.clone()
    changed[:, :, 2:] += 1

    found, other = layer(x, context(visible)), layer(changed, context(visible))

    assert torch.allclose(found[:, :, :2], other[:, :, :2], atol=1e-6)
    assert not torch.allclose(found[:, :, 2:], other[:, :, 2:], atol=1e-2)


def test_rotation_depends_on_distance_only() -> None:
    table = rotation_table(FREQUENCIES, 12)
    x = torch.randn(1, 1, 1, 1, K).expand(1, 12, 1, 1, K)

    turned_x = rotate(x, table)[0, :, 0, 0]

    products = turned_x @ turned_x.T
    assert torch.allclose(products.diagonal(3), products[0, 3].expand(9), atol=1e-4)


def test_selected_modulation_equals_two_full_modulations_and_where() -> None:
    rows, level = torch.randn(B, 2, 6, D), torch.randint(0, 2, (B, T, S))
    full = [rows[:, i, None, None].expand(B, T, S, 6, D) for i in (0, 1)]

    assert torch.equal(select_modulation(rows, level), torch.where(level[..., None, None] == 1, full[1], full[0]))


def test_selected_modulation_is_as_small_as_the_levels() -> None:
    rows = torch.randn(B, 2, 6, D)

    assert select_modulation(rows, torch.zeros(1, 1, S, dtype=torch.long)).shape == (B, 1, S, 6, D)
    assert select_modulation(rows[:, :1], torch.zeros(1, 1, 1, dtype=torch.long)).shape == (B, 1, 1, 6, D)


def test_modulation_is_computed_in_float32_and_returned_in_the_dtype_of_its_input() -> None:
    x = (torch.randn(4, 64) * 100).bfloat16()

    out = modulate(x, torch.zeros(64), torch.zeros(64))

    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), torch.nn.functional.layer_norm(x.float(), (64,), eps=1e-6), atol=2e-2)


@pytest.mark.parametrize("temporal", [False, True], ids=["spatial", "temporal"])
def test_checkpointing_changes_no_output_and_no_gradient(temporal: bool) -> None:
    torch.manual_seed(0)
    block = Block(D, H, 4, temporal=temporal, qk_norm=True)
    text = torch.randn(B, 3, D)
    found: dict[str, list[Tensor]] = {}
    for mode in get_args(Checkpointing):
        block.checkpointing = mode
        block.zero_grad()
        out = block(tokens(), context(), block.cross_attn.keys_values(text))
        out.square().sum().backward()
        found[mode] = [out.detach(), *(parameter.grad.clone() for parameter in block.parameters())]

    assert set(found) == {"none", "selective", "full"}
    for mode in ("selective", "full"):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[mode], found["none"], strict=True))


def test_selective_checkpointing_repeats_no_matrix_product_and_full_repeats_all() -> None:
    block = Block(D, H, 4, temporal=False, qk_norm=True)
    cost: dict[str, float] = {}
    for mode in get_args(Checkpointing):
        block.checkpointing = mode
        text = block.cross_attn.keys_values(torch.randn(B, 3, D))
        with FlopCounterMode(display=False) as forward:
            out = block(tokens().requires_grad_(), context(), text)
        with FlopCounterMode(display=False) as backward:
            out.square().sum().backward()
        cost[mode] = backward.get_total_flops() / forward.get_total_flops()

    assert cost["selective"] == cost["none"]
    assert cost["full"] == pytest.approx(cost["none"] + 1, abs=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", get_args(Checkpointing))
def test_compiled_blocks_give_the_same_output_and_gradient(mode: Checkpointing) -> None:
    torch.manual_seed(0)
    block, text = Block(D, H, 4, temporal=True, qk_norm=True), torch.randn(B, 3, D)
    block.checkpointing = mode

    def run() -> list[Tensor]:
        block.zero_grad()
        out = block(tokens(), context(), text)
        out.square().sum().backward()
        return [out.detach(), *(parameter.grad.clone() for parameter in block.parameters())]

    plain = run()
    block.compile()

    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(run(), plain, strict=True))
