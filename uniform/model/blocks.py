"""The block of STDiT3: adaLN-single modulation, self-attention in space or in time, text, feed-forward.

Shapes: B clips, T latent frames, S tokens per frame, D width, H heads, K = D / H, L distinct times per clip (one per
modality, and 0 for clean tokens), M text tokens. Blocks do not depend on modalities or layouts: each token takes its
own row of the L modulations.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from uniform.model.config import Checkpointing
from uniform.model.embed import Mlp

EPSILON = 1e-6


class KeyValues(NamedTuple):
    """Keys and values of a caption in one block's cross-attention; the same at every diffusion time."""

    keys: Tensor
    """(B, H, M, K)"""
    values: Tensor
    """(B, H, M, K)"""


class Context(NamedTuple):
    """Inputs that all blocks of a forward pass share."""

    modulation: Tensor
    """(B, L, 6, D): shift, scale, gate of the attention, then of the feed-forward layer."""
    level: Tensor
    """Long, broadcasts to (B, T, S): index of the modulation of each token."""
    text_mask: Tensor
    """Bool (B, 1, 1, M)"""
    rotation: Tensor
    """Float32 (2, T, 1, 1, K): cosine and sine of the temporal position, per pair of channels."""
    visible: Tensor | None
    """Bool (S, S), True where a token attends to another of its frame; None where all attend to all."""


def select_modulation(rows: Tensor, level: Tensor) -> Tensor:
    """The row of each token: (B, L, ..., D) by level (b, t, s) -> (B, t, s, ..., D), with the b, t, s of `level`.

    Levels that depend on the position in the frame only give T = 1: a hundredth of the activations.
    """
    level = level.reshape(level.shape + (1,) * (rows.dim() - 2))
    picked = rows[:, 0, None, None]
    for index in range(1, rows.shape[1]):
        picked = torch.where(level == index, rows[:, index, None, None], picked)
    return picked


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then scale and shift; computed in float32, returned in the dtype of `x`."""
    normal = F.layer_norm(x.float(), x.shape[-1:], eps=EPSILON)
    return (normal * (1 + scale) + shift).to(x.dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position on neighbouring pairs (2i, 2i + 1) of the last axis. x (B, T, S, H, K), float32."""
    even, odd = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * rotation[0] + turned * rotation[1]


def rotation_table(frequencies: Tensor, frames: int) -> Tensor:
    """Float32 (2, T, 1, 1, K) from K / 2 frequencies: positions are latent frame numbers."""
    angles = torch.arange(frames, device=frequencies.device)[:, None] * frequencies.float()  # (T, K / 2)
    angles = angles.repeat_interleave(2, dim=-1)[:, None, None]
    return torch.stack([angles.cos(), angles.sin()])


class HeadNorm(nn.Module):
    """RMS norm over the channels of a head, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # (..., K)
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), EPSILON)


class SelfAttention(nn.Module):
    """Attention among the tokens of a frame (spatial), or of a position over all frames (temporal).

    Neither kind copies the activations. Temporal attention treats positions as further heads, (B, S * H, T, K): a
    view, because values have a matrix product of their own. The fused kernels write their result in the order
    (B, T, S, D).
    """

    def __init__(self, width: int, heads: int, *, temporal: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.temporal = heads, temporal
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm: nn.Module = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, S, D)
        B, T, S, D = x.shape
        qk = F.linear(x, self.qkv.weight[: 2 * D], self.qkv.bias[: 2 * D])
        q, k = qk.view(B, T, S, 2, self.heads, -1).unbind(3)
        v = F.linear(x, self.qkv.weight[2 * D :], self.qkv.bias[2 * D :])  # (B, T, S, D)
        q, k = self.q_norm(q), self.k_norm(k)  # (B, T, S, H, K)
        if self.temporal:
            q, k = (rotate(each.float(), context.rotation).to(v.dtype).flatten(2, 3) for each in (q, k))
            v = v.view(B, T, S * self.heads, -1)  # as q and k
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            y = y.transpose(1, 2).reshape(B, T, S, D)
        else:
            q, k, v = (each.to(v.dtype).reshape(B * T, S, self.heads, -1).transpose(1, 2) for each in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=context.visible)  # (B * T, H, S, K)
            y = y.transpose(1, 2).reshape(B, T, S, D)
        return cast(Tensor, self.proj(y))  # (B, T, S, D)


class CrossAttention(nn.Module):
    """Attention of all tokens of a clip to its caption; padding is masked."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_values(self, text: Tensor) -> KeyValues:  # (B, M, D)
        """Keys and values of embedded captions."""
        both: Tensor = self.kv_linear(text)
        keys, values = both.view(*text.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return KeyValues(keys, values)  # each (B, H, M, K)

    def forward(self, x: Tensor, text: KeyValues, mask: Tensor) -> Tensor:  # (B, T, S, D)
        q: Tensor = self.q_linear(x)
        q = q.view(x.shape[0], -1, self.heads, x.shape[3] // self.heads).transpose(1, 2)  # (B, H, T * S, K)
        y = F.scaled_dot_product_attention(q, text.keys, text.values, attn_mask=mask)
        return cast(Tensor, self.proj(y.transpose(1, 2).reshape(x.shape)))  # (B, T, S, D)


class Block(nn.Module):
    """One spatial or temporal block. Modulates and gates self-attention and feed-forward, not cross-attention."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, *, temporal: bool, qk_norm: bool) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        self.attn = SelfAttention(width, heads, temporal=temporal, qk_norm=qk_norm)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, mlp_ratio * width, width)
        self.checkpointing: Checkpointing = "none"

    def forward(self, x: Tensor, context: Context, caption: Tensor | KeyValues) -> Tensor:  # (B, T, S, D)
        """Run the block; `caption` is embedded text (B, M, D), or its `cross_attn.keys_values`."""
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            return self._forward(x, context, caption)
        if self.checkpointing == "full":
            again = checkpoint(self._forward, x, context, caption, use_reentrant=False)
        else:
            again = checkpoint(self._forward, x, context, caption, use_reentrant=False, context_fn=_keep_products)
        return cast(Tensor, again)

    def _forward(self, x: Tensor, context: Context, caption: Tensor | KeyValues) -> Tensor:
        text = self.cross_attn.keys_values(caption) if isinstance(caption, Tensor) else caption
        modulation = select_modulation(self.scale_shift_table + context.modulation, context.level)  # (B, t, s, 6, D)
        s1, c1, g1, s2, c2, g2 = torch.unbind(modulation, -2)
        x = x + (g1 * self.attn(modulate(x, s1, c1), context)).to(x.dtype)
        x = x + self.cross_attn(x, text, context.text_mask)
        return x + cast(Tensor, g2 * self.mlp(modulate(x, s2, c2))).to(x.dtype)


def _keep_products() -> Any:
    """Selective checkpointing: keep matrix products and attention, recompute everything else."""

    def policy(_: object, operation: object, *arguments: object, **options: object) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


_ATEN = torch.ops.aten
_PRODUCTS = (
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
)
