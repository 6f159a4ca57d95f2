"""The block stack of UniForm against the same computation written plainly, side by side in one run.

    python benchmarks/block_stack.py [--pairs 1] [--frames 4] [--repeats 3]

Both use the same XL/2-shaped blocks on the paper's 304 tokens per frame and 300 text tokens, and must agree. The plain
one does what the sources do:

    modulation   two full ones per token, for the noisy and for the clean time, and `where` between them (Open-Sora)
    attention    copies between (B T) S and (B S) T; softmax(q k) v written out in temporal blocks (Open-Sora)
    text         a block is given sequences, and the text is repeated and projected for each of them: B T frames in
                 spatial blocks, B S places in temporal ones (as in latent video diffusion, LVDM)

"text per frame" is milder, it repeats the text for the frames in both kinds of block (Latte); "text once" repeats
nothing. One thread, processor time, best of the repeats, alternating.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.model.blocks import Block, Context, rotate, rotation_table
from uniform.model.config import SIZES
from uniform.model.layout import GridLayout
from uniform.spec import PAPER

CONFIG = SIZES["XL/2"]
TOKENS, TEXT = 304, 300


@dataclass(frozen=True)
class Plain:
    """Which parts are done the plain way, and how often the text is projected."""

    modulation: bool = True
    attention: bool = True
    text: Literal["sequence", "frame", "once"] = "sequence"


@dataclass(frozen=True)
class Inputs:
    """What both stacks read."""

    x: Tensor
    text: Tensor
    context: Context


def plain_stack(blocks: list[Block], inputs: Inputs, plain: Plain) -> Tensor:
    """All blocks in order; each part plain or ours."""
    x = inputs.x
    for block in blocks:
        x = plain_block(block, x, inputs, plain)
    return x


def plain_block(block: Block, x: Tensor, inputs: Inputs, plain: Plain) -> Tensor:
    """One block after the description: modulate twice and choose, copy between layouts, repeat the text."""
    _, _, S, D = x.shape
    if not plain.modulation:
        return shared_modulation_block(block, x, inputs, plain)
    rows = block.scale_shift_table + inputs.context.modulation  # (B, 2, 6, D)
    noisy, clean = (rows[:, level].unbind(1) for level in (0, 1))  # six (B, D) each
    is_clean = (inputs.context.level == 1).expand(x.shape[:3]).reshape(len(x), -1)[..., None]  # (B, T S, 1)

    def modulated(x: Tensor, place: int) -> Tensor:
        both = [
            F.layer_norm(x, (D,), eps=1e-6) * (1 + row[place + 1][:, None]) + row[place][:, None]
            for row in (noisy, clean)
        ]
        return torch.where(is_clean, both[1], both[0])

    def gated(change: Tensor, place: int) -> Tensor:
        return torch.where(is_clean, change * clean[place][:, None], change * noisy[place][:, None])

    flat = x.flatten(1, 2)  # (B, T S, D)
    attended = self_attention(block, modulated(flat, 0).unflatten(1, (-1, S)), inputs, plain)
    flat = flat + gated(attended.flatten(1, 2), 2)
    flat = flat + cross_attention(block, flat.unflatten(1, (-1, S)), inputs, plain).flatten(1, 2)
    return (flat + gated(block.mlp(modulated(flat, 3)), 5)).unflatten(1, (-1, S))


def shared_modulation_block(block: Block, x: Tensor, inputs: Inputs, plain: Plain) -> Tensor:
    """Our modulation around plain attention and text."""
    rows = block.scale_shift_table + inputs.context.modulation
    is_clean = (inputs.context.level == 1)[..., None]
    s1, c1, g1, s2, c2, g2 = (
        torch.where(is_clean, rows[:, 1, place][:, None, None], rows[:, 0, place][:, None, None]) for place in range(6)
    )
    x = x + g1 * self_attention(block, F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + c1) + s1, inputs, plain)
    x = x + cross_attention(block, x, inputs, plain)
    return x + g2 * block.mlp(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + c2) + s2)


def self_attention(block: Block, x: Tensor, inputs: Inputs, plain: Plain) -> Tensor:
    """(B, T, S, D) -> (B, T, S, D)"""
    layer = block.attn
    if not plain.attention:
        return layer(x, inputs.context)
    B, T, S, D = x.shape
    lines = (x.transpose(1, 2) if layer.temporal else x).reshape(-1, T if layer.temporal else S, D)
    q, k, v = layer.qkv(lines).view(*lines.shape[:2], 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    q, k = layer.q_norm(q), layer.k_norm(k)  # (N, H, length, K)
    if layer.temporal:
        q, k = (rotate(each.transpose(1, 2)[:, :, None], inputs.context.rotation)[:, :, 0] for each in (q, k))
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        y = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v)
    y = layer.proj(y.transpose(1, 2).reshape(lines.shape))
    return y.view(B, S, T, D).transpose(1, 2) if layer.temporal else y.view(B, T, S, D)


def cross_attention(block: Block, x: Tensor, inputs: Inputs, plain: Plain) -> Tensor:
    """(B, T, S, D) -> (B, T, S, D)"""
    layer = block.cross_attn
    if plain.text == "once":
        return layer(x, layer.remember(inputs.text), inputs.context.text_mask)
    by_place = block.attn.temporal and plain.text == "sequence"
    lines = x.transpose(1, 2) if by_place else x  # (B, sequences, length, D)
    text = inputs.text.repeat_interleave(lines.shape[1], dim=0)  # (B sequences, M, D)
    mask = inputs.context.text_mask.repeat_interleave(lines.shape[1], dim=0)
    q = layer.q_linear(lines.flatten(0, 1)).unflatten(2, (layer.heads, -1)).transpose(1, 2)
    k, v = layer.kv_linear(text).unflatten(2, (2, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = layer.proj(y.transpose(1, 2).flatten(2)).view(lines.shape)
    return y.transpose(1, 2) if by_place else y


def our_stack(blocks: list[Block], inputs: Inputs) -> Tensor:
    """As the network runs it."""
    x = inputs.x
    for block in blocks:
        x = block(x, inputs.context, block.cross_attn.remember(inputs.text))
    return x


def make_blocks(pairs: int) -> list[Block]:
    """XL/2-shaped blocks, spatial and temporal in turn, with random weights."""
    torch.manual_seed(0)
    blocks = [
        Block(CONFIG.width, CONFIG.heads, CONFIG.mlp_ratio, temporal=temporal, qk_norm=True)
        for _ in range(pairs)
        for temporal in (False, True)
    ]
    for block in blocks:
        torch.nn.init.normal_(block.scale_shift_table, std=CONFIG.width**-0.5)
    return blocks


def make_inputs(frames: int) -> Inputs:
    """One clip of V2A: the picture's tokens clean, the sound's noisy."""
    generator = torch.Generator().manual_seed(0)
    level = GridLayout(PAPER.video_latent, PAPER.audio_latent, CONFIG.patch).levels()
    frequencies = 10_000.0 ** (-torch.arange(0, CONFIG.head_width, 2) / CONFIG.head_width)
    context = Context(
        modulation=torch.randn(1, 2, 6, CONFIG.width, generator=generator) * 0.1,
        level=(1 - level)[None, None],
        text_mask=torch.ones(1, 1, 1, TEXT, dtype=torch.bool),
        rotation=rotation_table(frequencies, frames),
        visible=None,
    )
    x = torch.randn(1, frames, TOKENS, CONFIG.width, generator=generator)
    return Inputs(x, torch.randn(1, TEXT, CONFIG.width, generator=generator), context)


def seconds(work: Callable[[], Tensor], train: bool) -> float:
    """Processor time of one forward pass, or of forward and backward."""
    start = time.process_time()
    with torch.set_grad_enabled(train):
        out = work()
        if train:
            out.square().mean().backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    blocks, inputs = make_blocks(options.pairs), make_inputs(options.frames)
    rows: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: our_stack(blocks, inputs),
        "plain": lambda: plain_stack(blocks, inputs, Plain()),
        "plain, text per frame": lambda: plain_stack(blocks, inputs, Plain(text="frame")),
        "plain, text once": lambda: plain_stack(blocks, inputs, Plain(text="once")),
        "... and our modulation": lambda: plain_stack(blocks, inputs, Plain(text="once", modulation=False)),
    }
    with torch.no_grad():
        wanted = rows["plain"]()
        apart = float((rows["ours"]() - wanted).abs().max() / wanted.abs().max())
    print(
        f"outputs differ by {apart:.1e} of the largest; {options.frames} frames x {TOKENS} tokens, {TEXT} text tokens"
    )
    if apart > 1e-4:
        raise SystemExit("the two stacks do not compute the same")
    for what, train in (("forward", False), ("forward and backward", True)):
        best = dict.fromkeys(rows, float("inf"))
        for _ in range(options.repeats):
            for name, work in rows.items():
                best[name] = min(best[name], seconds(work, train))
        print(what)
        for name, time_s in best.items():
            print(f"  {name:24} {time_s:7.3f} s   {time_s / best['ours']:.2f} x ours")


if __name__ == "__main__":
    main()
