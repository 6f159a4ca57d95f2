"""The block stack of UniForm against the same computation as Open-Sora 1.2 implements it, measured in one run.

    python benchmarks/block_stack.py [--pairs 1] [--frames 4] [--repeats 3]

Both use the same XL/2-shaped blocks on the paper's 304 tokens per frame and 300 text tokens, and must agree. The
Open-Sora stack has:

    modulation   two full ones per token, for the noisy and for the clean time, and `where` between them, in four places
    attention    copies between (B T) S and (B S) T; softmax(q k) v written out in temporal blocks
    text         packed, so projected once per clip and block, but again in every step of sampling

Ours keeps keys and values for all steps of a sample; in training both project them in each pass. The last row is the
matrix products alone, which both stacks share: the difference to it is the most that an implementation can save. One
thread, processor time, best of the repeats, alternating.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.model.blocks import Block, Context, KeyValues, rotate, rotation_table
from uniform.model.config import SIZES
from uniform.model.layout import GridLayout
from uniform.spec import PAPER

CONFIG = SIZES["XL/2"]
TOKENS, TEXT = 304, 300


@dataclass(frozen=True)
class Plain:
    """Parts computed as in Open-Sora; the others as in UniForm."""

    modulation: bool = True
    attention: bool = True
    text: bool = True


@dataclass(frozen=True)
class Inputs:
    """Inputs of both stacks."""

    x: Tensor
    text: Tensor
    caches: list[KeyValues]
    """Keys and values of the text for each block."""
    context: Context


def plain_stack(blocks: list[Block], inputs: Inputs, plain: Plain) -> Tensor:
    """All blocks in order; `plain` selects the implementation of each part."""
    x = inputs.x
    for block, cached in zip(blocks, inputs.caches, strict=True):
        x = plain_block(block, x, inputs, plain, None if plain.text else cached)
    return x


def plain_block(block: Block, x: Tensor, inputs: Inputs, plain: Plain, cached: KeyValues | None) -> Tensor:
    """One block as in Open-Sora: modulate twice and select, copy between layouts, project the text."""
    _, _, S, D = x.shape
    if not plain.modulation:
        return shared_modulation_block(block, x, inputs, plain, cached)
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
    flat = flat + cross_attention(block, flat.unflatten(1, (-1, S)), inputs, cached).flatten(1, 2)
    return (flat + gated(block.mlp(modulated(flat, 3)), 5)).unflatten(1, (-1, S))


def shared_modulation_block(block: Block, x: Tensor, inputs: Inputs, plain: Plain, cached: KeyValues | None) -> Tensor:
    """Our modulation around plain attention and text."""
    rows = block.scale_shift_table + inputs.context.modulation
    is_clean = (inputs.context.level == 1)[..., None]
    s1, c1, g1, s2, c2, g2 = (
        torch.where(is_clean, rows[:, 1, place][:, None, None], rows[:, 0, place][:, None, None]) for place in range(6)
    )
    x = x + g1 * self_attention(block, F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + c1) + s1, inputs, plain)
    x = x + cross_attention(block, x, inputs, cached)
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


def cross_attention(block: Block, x: Tensor, inputs: Inputs, cached: KeyValues | None) -> Tensor:
    """(B, T, S, D) -> (B, T, S, D)"""
    layer = block.cross_attn
    return layer(x, layer.keys_values(inputs.text) if cached is None else cached, inputs.context.text_mask)


def our_stack(blocks: list[Block], inputs: Inputs, cached_text: bool) -> Tensor:
    """As the network runs it: in sampling with the text's keys and values `cached_text`, in training without."""
    x = inputs.x
    for block, cached in zip(blocks, inputs.caches, strict=True):
        x = block(x, inputs.context, cached if cached_text else inputs.text)
    return x


def products(blocks: list[Block], inputs: Inputs) -> Tensor:
    """The linear maps of all blocks on the tokens, and nothing else."""
    x = inputs.x
    for block in blocks:
        x = block.attn.proj(block.attn.qkv(x)[..., : CONFIG.width])
        x = block.cross_attn.proj(block.cross_attn.q_linear(x))
        x = block.mlp.fc2(block.mlp.fc1(x))
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


def make_inputs(blocks: list[Block], frames: int) -> Inputs:
    """One clip of V2A: video tokens clean, audio tokens noisy."""
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
    text = torch.randn(1, TEXT, CONFIG.width, generator=generator)
    with torch.no_grad():
        caches = [block.cross_attn.keys_values(text) for block in blocks]
    return Inputs(x, text, caches, context)


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
    blocks = make_blocks(options.pairs)
    inputs = make_inputs(blocks, options.frames)
    with torch.no_grad():
        wanted = plain_stack(blocks, inputs, Plain())
        apart = float((our_stack(blocks, inputs, True) - wanted).abs().max() / wanted.abs().max())
    print(
        f"outputs differ by {apart:.1e} of the largest; {options.frames} frames x {TOKENS} tokens, {TEXT} text tokens"
    )
    if apart > 1e-4:
        raise SystemExit("the two stacks do not agree")
    for what, train in (("a step of sampling", False), ("a step of training", True)):
        rows = ways(blocks, inputs, cached_text=not train)
        best = dict.fromkeys(rows, float("inf"))
        for _ in range(options.repeats):
            for name, work in rows.items():
                best[name] = min(best[name], seconds(work, train))
        print(what)
        for name, time_s in best.items():
            print(f"  {name:40} {time_s:7.3f} s   {time_s / best['ours']:.3f} x ours")
        print(f"  no writing of the rest could give more than {best['Open-Sora'] / best['matrix products alone']:.2f}")


def ways(blocks: list[Block], inputs: Inputs, *, cached_text: bool) -> dict[str, Callable[[], Tensor]]:
    """The timed variants by name; in training, without a text cache, the text is not a separate variant."""
    alone = {
        "... only its two modulations": Plain(attention=False, text=not cached_text),
        "... only its attention": Plain(modulation=False, text=not cached_text),
    }
    if cached_text:
        alone["... only its text"] = Plain(modulation=False, attention=False)
    return {
        "ours": lambda: our_stack(blocks, inputs, cached_text),
        "Open-Sora": lambda: plain_stack(blocks, inputs, Plain()),
        **{name: partial(plain_stack, blocks, inputs, plain) for name, plain in alone.items()},
        "matrix products alone": lambda: products(blocks, inputs),
    }


if __name__ == "__main__":
    main()
