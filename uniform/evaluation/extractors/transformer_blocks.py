"""Parts that the published transformers of this folder share, with the names of their tensors.

B rows, N tokens, D width, H heads, K = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, K)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (B, N, D) over (B, M, D); `mask` (N, M) is added to the scores."""
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    return attend_heads(q, k, v, mask).transpose(1, 2).flatten(2)


def attend_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same for heads that are split already: (..., N, K) over (..., M, K)."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class FusedAttention(nn.Module):
    """Self-attention with `qkv` and `proj`, as timm names them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out: Tensor = self.proj(attend(query, key, value, self.heads))
        return out


class Mlp(nn.Module):
    """`fc1`, exact GELU, `fc2`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
