"""Synchformer's network under its published names: 513 tensors, of which the 2-D patch embedding serves nothing.

Source: Iashin et al. (arXiv:2401.16423), github.com/v-iashin/Synchformer (MIT); the checkpoint with a head of 21
offsets that MMAudio and av-benchmark use.

B clips, S segments of 0.64 s, G = B S, D = 768. A video segment has 16 frames -> 8 x 14 x 14 patches -> 8 tokens;
an audio segment 66 spectrogram frames -> 12 x 6 patches -> 6 tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.transformer_blocks import Mlp, attend, attend_heads, split_heads

WIDTH = 768
_DEPTH = 12
_HEADS = 12


class _DividedAttention(nn.Module):
    """Attention within groups of patches; the class token sees all patches, and every group sees the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, grid: tuple[int, int], over_time: bool) -> Tensor:  # (G, 1 + t n, D)
        q, k, v = (split_heads(part, _HEADS) for part in self.qkv(x).chunk(3, dim=-1))  # (G, H, 1 + t n, K)
        lead = attend_heads(q[:, :, :1], k, v)  # (G, H, 1, K)

        def grouped(part: Tensor) -> Tensor:  # (G, H, groups, members, K)
            patches = torch.unflatten(part[:, :, 1:], 2, grid)
            return patches.transpose(2, 3) if over_time else patches

        queries = grouped(q)
        keys, values = (
            torch.cat([part[:, :, None, :1].expand(-1, -1, queries.shape[2], -1, -1), grouped(part)], dim=3)
            for part in (k, v)
        )
        mixed = attend_heads(queries, keys, values)
        mixed = (mixed.transpose(2, 3) if over_time else mixed).flatten(2, 3)  # (G, H, t n, K)
        out: Tensor = self.proj(torch.cat([lead, mixed], dim=2).transpose(1, 2).flatten(2))
        return out


class _DividedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = _DividedAttention()
        self.timeattn = _DividedAttention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = Mlp(WIDTH, 4 * WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:  # (G, 1 + t n, D)
        x = x + self.timeattn(self.norm3(x), grid, over_time=True)
        x = x + self.attn(self.norm1(x), grid, over_time=False)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _FusedProjection(nn.Module):
    """Self-attention with torch's names: one matrix for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * WIDTH, WIDTH))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * WIDTH))
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        out: Tensor = self.out_proj(attend(query, key, value, _HEADS))
        return out


class _Pooling(nn.Module):
    """One transformer layer over a class token and N tokens: (rows, N, D) -> (rows, D), the class token's output."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.self_attn = _FusedProjection()
        self.linear1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.linear2 = nn.Linear(4 * WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        lead = (x + self.self_attn(self.norm1(x)))[:, 0]
        out: Tensor = lead + self.linear2(F.gelu(self.linear1(self.norm2(lead))))
        return out


class _Patches(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj


class _VideoFeatures(nn.Module):
    """Motionformer with divided attention, pooled over space."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 14 * 14, WIDTH))
        self.temp_embed = nn.Parameter(torch.zeros(1, 8, WIDTH))
        self.patch_embed = _Patches(nn.Conv2d(3, WIDTH, 16, 16))  # published, but not used
        self.patch_embed_3d = _Patches(nn.Conv3d(3, WIDTH, (2, 16, 16), (2, 16, 16)))
        self.blocks = nn.ModuleList(_DividedBlock() for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.spatial_attn_agg = _Pooling()

    def forward(self, segments: Tensor) -> Tensor:  # (G, 3, 16, 224, 224) -> (G, 8, D)
        patches = self.patch_embed_3d.proj(segments).flatten(3).permute(0, 2, 3, 1)  # (G, t, n, D)
        grid = (patches.shape[1], patches.shape[2])
        patches = patches + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        lead = (self.cls_token + self.pos_embed[:, :1]).expand(len(segments), -1, -1)
        x = torch.cat([lead, patches.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x, grid)
        x = torch.unflatten(self.norm(x[:, 1:]), 1, grid)
        return torch.unflatten(self.spatial_attn_agg(x.flatten(0, 1)), 0, (len(segments), grid[0]))


class _AstAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.attention[name](x) for name in ("query", "key", "value"))
        out: Tensor = self.output["dense"](attend(query, key, value, _HEADS))
        return out


class _AstLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _AstAttention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * WIDTH, WIDTH)})
        self.layernorm_before = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        out: Tensor = x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))
        return out


class _AstEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2 + 12 * 6, WIDTH))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, WIDTH, 16, 10)})

    def forward(self, mel: Tensor) -> Tensor:  # (G, 1, 128, 66) -> (G, 2 + 72, D)
        patches = self.patch_embeddings["projection"](mel).flatten(2).transpose(1, 2)
        lead = torch.cat([self.cls_token, self.distillation_token], dim=1).expand(len(mel), -1, -1)
        x: Tensor = torch.cat([lead, patches], dim=1) + self.position_embeddings
        return x


class _Ast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _AstEmbeddings()
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*(_AstLayer() for _ in range(_DEPTH)))})
        self.layernorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, mel: Tensor) -> Tensor:
        out: Tensor = self.layernorm(self.encoder["layer"](self.embeddings(mel)))
        return out


class _AudioFeatures(nn.Module):
    """Audio spectrogram transformer, pooled over frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.ast = _Ast()
        self.freq_attn_agg = _Pooling()

    def forward(self, mel: Tensor) -> Tensor:  # (G, 1, 128, 66) -> (G, 6, D)
        patches = torch.unflatten(self.ast(mel)[:, 2:], 1, (12, 6)).transpose(1, 2)  # (G, 6, 12, D)
        return torch.unflatten(self.freq_attn_agg(patches.flatten(0, 1)), 0, (len(mel), 6))


class _OffsetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(WIDTH)
        self.ln2 = nn.LayerNorm(WIDTH)
        self.attn = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("key", "query", "value", "proj")})
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln1(x)
        query, key, value = (self.attn[name](normed) for name in ("query", "key", "value"))
        x = x + self.attn["proj"](attend(query, key, value, heads=8))
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class _OffsetTransformer(nn.Module):
    def __init__(self, segments: int, offsets: int) -> None:
        super().__init__()
        self.OFF_tok = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.MOD_tok = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.vis_in_lnorm = nn.LayerNorm(WIDTH)
        self.aud_in_lnorm = nn.LayerNorm(WIDTH)
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": nn.Parameter(torch.zeros(1, 2 + segments * 14, WIDTH))})
        self.blocks = nn.ModuleList(_OffsetBlock() for _ in range(3))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.off_head = nn.Linear(WIDTH, offsets)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:  # (B, 8 S, D), (B, 6 S, D) -> (B, 21)
        off, mod = (token.expand(len(video), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([off, self.vis_in_lnorm(video), mod, self.aud_in_lnorm(audio)], dim=1)
        x = x + self.pos_emb_cfg["pos_emb"]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.off_head(self.ln_f(x)[:, 0])
        return logits


class SynchformerNetwork(nn.Module):
    """Features of segments, and the offset of 14 segments of both modalities."""

    def __init__(self, segments: int = 14, offsets: int = 21) -> None:
        super().__init__()
        self.segments = segments
        self.vfeat_extractor = _VideoFeatures()
        self.afeat_extractor = _AudioFeatures()
        self.vproj = nn.Linear(WIDTH, WIDTH)
        self.aproj = nn.Linear(WIDTH, WIDTH)
        self.transformer = _OffsetTransformer(segments, offsets)

    def video_features(self, segments: Tensor) -> Tensor:
        """Frames in [-1, 1], (G, 3, 16, 224, 224) -> (G, 8, D)."""
        features: Tensor = self.vfeat_extractor(segments)
        return features

    def audio_features(self, mel: Tensor) -> Tensor:
        """Normalised log-mel segments (G, 1, 128, 66) -> (G, 6, D)."""
        features: Tensor = self.afeat_extractor(mel)
        return features

    def offset_logits(self, video: Tensor, audio: Tensor) -> Tensor:
        """Features of exactly 14 segments, (B, 14, 8, D) and (B, 14, 6, D) -> logits (B, 21) of offsets."""
        logits: Tensor = self.transformer(self.vproj(video).flatten(1, 2), self.aproj(audio).flatten(1, 2))
        return logits
