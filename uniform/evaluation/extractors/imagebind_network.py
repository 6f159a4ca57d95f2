"""ImageBind's vision, audio and text networks under their published names.

Source: Girdhar et al. (arXiv:2305.05665), github.com/facebookresearch/ImageBind. The published file holds depth,
thermal and IMU networks beside these three: `other_shapes` names their tensors.

B rows, N tokens, D width of a modality, E width of the shared embedding.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.transformer_blocks import Mlp, attend

CONTEXT = 77
VOCABULARY = 49_408
MEL_BINS, MEL_FRAMES = 128, 204
_MOST_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class TrunkSize:
    width: int
    blocks: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class ImageBindSize:
    """Sizes of the three networks; the defaults are those of the published file."""

    embedding: int = 1024
    vision: TrunkSize = TrunkSize(width=1280, blocks=32, heads=16)
    audio: TrunkSize = TrunkSize(width=768, blocks=12, heads=12)
    text: TrunkSize = TrunkSize(width=1024, blocks=24, heads=16)


class _Attention(nn.Module):
    """torch's names; audio has one learned key and value beside those of the tokens."""

    def __init__(self, width: int, heads: int, learned_pair: bool) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width)) if learned_pair else None
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width)) if learned_pair else None
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, N, D)
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat([key, self.bias_k.expand(len(x), -1, -1)], dim=1)
            value = torch.cat([value, self.bias_v.expand(len(x), -1, -1)], dim=1)
        out: Tensor = self.out_proj(attend(query, key, value, self.heads, mask))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, learned_pair: bool) -> None:
        super().__init__()
        self.attn = _Attention(width, heads, learned_pair)
        self.norm_1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.norm_2 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm_1(x), mask)
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class _Trunk(nn.Module):
    def __init__(self, size: TrunkSize, first_norm: bool = False, learned_pair: bool = False) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(*([nn.LayerNorm(size.width, eps=1e-6)] if first_norm else []))
        self.blocks = nn.ModuleList(_Block(size.width, size.heads, learned_pair) for _ in range(size.blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Positions(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))


class _Stem(nn.Module):
    """The convolution, whose place in the published names differs, and the norm that audio has behind it."""

    def __init__(self, proj: nn.Module, norm_width: int | None = None) -> None:
        super().__init__()
        self.proj = proj
        self.norm_layer = nn.Identity() if norm_width is None else nn.LayerNorm(norm_width)

    def forward(self, x: Tensor) -> Tensor:  # -> (B, N, D)
        out: Tensor = self.norm_layer(self.proj(x).flatten(2).transpose(1, 2))
        return out


class _PatchInput(nn.Module):
    def __init__(self, stem: _Stem, patches: int, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.rgbt_stem = stem
        self.pos_embedding_helper = _Positions(1 + patches, width)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.rgbt_stem(x)
        positions = fitted_positions(self.pos_embedding_helper.pos_embed, patches.shape[1])
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + positions


def fitted_positions(positions: Tensor, patches: int) -> Tensor:
    """Positions (1, 1 + n, D) of a square grid, resized (bicubic) to another square grid where `patches` is not n."""
    if patches == positions.shape[1] - 1:
        return positions
    side, wanted = math.isqrt(positions.shape[1] - 1), math.isqrt(patches)
    grid = positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    grid = F.interpolate(grid, scale_factor=wanted / side, mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class _TextInput(nn.Module):
    mask: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, CONTEXT, width))
        self.register_buffer("mask", causal_mask())
        self.token_embedding = nn.Embedding(VOCABULARY, width)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.pos_embed
        return out


def causal_mask() -> Tensor:
    """(77, 77): minus infinity above the diagonal, 0 elsewhere."""
    return torch.full((CONTEXT, CONTEXT), -torch.inf, device="cpu").triu(1)


def _head(width: int, embedding: int) -> nn.Sequential:
    """Norm, a place without tensors, projection: the published numbers are 0 and 2."""
    return nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Identity(), nn.Linear(width, embedding, bias=False))


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.zeros(()))


class ImageBindNetwork(nn.Module):
    """Three encoders into one space. Vision has length 1; audio and text are scaled as published."""

    def __init__(self, size: ImageBindSize) -> None:
        super().__init__()
        vision, audio, text = size.vision, size.audio, size.text
        image_stem = _Stem(
            nn.Sequential(nn.Identity(), nn.Conv3d(3, vision.width, (2, 14, 14), (2, 14, 14), bias=False))
        )
        sound_stem = _Stem(nn.Conv2d(1, audio.width, 16, 10, bias=False), norm_width=audio.width)
        self.modality_preprocessors = nn.ModuleDict(
            {
                "vision": _PatchInput(image_stem, 16 * 16, vision.width),
                "text": _TextInput(text.width),
                "audio": _PatchInput(sound_stem, 12 * 19, audio.width),
            }
        )
        self.modality_trunks = nn.ModuleDict(
            {
                "vision": _Trunk(vision, first_norm=True),
                "text": _Trunk(text),
                "audio": _Trunk(audio, learned_pair=True),
            }
        )
        self.modality_heads = nn.ModuleDict(
            {
                "vision": _head(vision.width, size.embedding),
                "text": nn.ModuleDict(
                    {
                        "proj": nn.Sequential(
                            nn.LayerNorm(text.width, eps=1e-6), nn.Linear(text.width, size.embedding, bias=False)
                        )
                    }
                ),
                "audio": _head(audio.width, size.embedding),
            }
        )
        self.modality_postprocessors = nn.ModuleDict(
            {name: nn.Sequential(nn.Identity(), _Scale()) for name in ("text", "audio")}
        )

    def vision(self, frames: Tensor) -> Tensor:
        """Normalised images (B, 3, 224, 224), or clips of two frames (B, 3, 2, 224, 224) -> (B, E), length 1."""
        if frames.dim() == 4:
            frames = frames[:, :, None].expand(-1, -1, 2, -1, -1)
        x = self.modality_trunks["vision"](self.modality_preprocessors["vision"](frames))
        return F.normalize(self.modality_heads["vision"](x[:, 0]), dim=-1)

    def audio(self, mel: Tensor) -> Tensor:
        """Normalised log-mel windows (B, 1, 128, 204) -> (B, E)."""
        x = self.modality_trunks["audio"](self.modality_preprocessors["audio"](mel))
        return self._scaled("audio", self.modality_heads["audio"](x[:, 0]))

    def text(self, ids: Tensor) -> Tensor:
        """Token numbers (B, 77), the end token being the highest -> (B, E)."""
        entrance = self.modality_preprocessors["text"]
        x = self.modality_trunks["text"](entrance(ids), entrance.get_buffer("mask"))
        ends = x[torch.arange(len(ids), device=x.device), ids.argmax(dim=-1)]
        head = self.modality_heads["text"].get_submodule("proj")
        return self._scaled("text", head(ends))

    def _scaled(self, modality: str, x: Tensor) -> Tensor:
        scale = self.get_parameter(f"modality_postprocessors.{modality}.1.log_logit_scale").exp().clamp(max=_MOST_SCALE)
        return scale * F.normalize(x, dim=-1)


OTHER_MODALITIES = ("depth", "thermal", "imu")


def is_of_other_modality(name: str) -> bool:
    """Whether a tensor belongs to one of the three networks that are not used here."""
    return name.split(".")[1] in OTHER_MODALITIES


def other_shapes(embedding: int = 1024) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 447 tensors of the depth, thermal and IMU networks in the published file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, width, blocks, tokens, stem in (
        ("depth", 384, 12, 197, ("depth_stem", (384, 1, 16, 16))),
        ("thermal", 768, 12, 197, ("rgbt_stem", (768, 1, 16, 16))),
        ("imu", 512, 6, 251, ("imu_stem", (512, 48))),
    ):
        entrance = f"modality_preprocessors.{name}"
        positions = "pos_embed" if name == "imu" else "pos_embedding_helper.pos_embed"
        shapes |= {
            f"{entrance}.cls_token": (1, 1, width),
            f"{entrance}.{positions}": (1, tokens, width),
            f"{entrance}.{stem[0]}.proj.weight": stem[1],
            f"{entrance}.{stem[0]}.norm_layer.weight": (width,),
            f"{entrance}.{stem[0]}.norm_layer.bias": (width,),
        }
        for block in range(blocks):
            with torch.device("meta"):
                state = _Block(width, 8, learned_pair=True).state_dict()
            shapes |= {f"modality_trunks.{name}.blocks.{block}.{key}": tuple(t.shape) for key, t in state.items()}
        last = 3 if name == "imu" else 2
        shapes |= {
            f"modality_heads.{name}.0.weight": (width,),
            f"modality_heads.{name}.0.bias": (width,),
            f"modality_heads.{name}.{last}.weight": (embedding, width),
            f"modality_postprocessors.{name}.1.log_logit_scale": (),
        }
    return shapes
