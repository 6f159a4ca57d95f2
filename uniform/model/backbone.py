"""The part of the network that UniForm and STDiT3 (Open-Sora 1.2) share: embedders, blocks, text, initialisation.

Shapes: B clips, T latent frames, S tokens per frame, D width, L distinct times per clip, M text tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from uniform.model.blocks import Block, Context, KeyValues, modulate, rotation_table, select_modulation
from uniform.model.config import Checkpointing, ModelConfig
from uniform.model.embed import CaptionEmbed, PatchEmbed, ScalarEmbed, drop_captions


class TextKVCache(NamedTuple):
    """Embedded captions, or keys and values of them per block. They do not depend on the diffusion time."""

    captions: Sequence[Tensor | KeyValues]
    """In the order of the blocks: embedded text (B, M, D), or keys and values."""
    mask: Tensor
    """Bool (B, 1, 1, M)"""


class Rope(nn.Module):
    """Frequencies of the temporal rotary position, under the published name."""

    freqs: Tensor

    def __init__(self, head_width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        self.register_buffer("freqs", 10_000.0**-exponents)


class FinalLayer(nn.Module):
    """Modulated LayerNorm and one linear map to a token's output: (patch rows, patch columns, channel)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, channels)

    def forward(self, x: Tensor, times: Tensor, level: Tensor) -> Tensor:  # (B, T, S, D), (B, L, D), (b, t, S)
        shift, scale = select_modulation(self.scale_shift_table + times[:, :, None], level).unbind(-2)
        return cast(Tensor, self.linear(modulate(x, shift, scale)))  # (B, T, S, channels)


class Backbone(nn.Module):
    """Blocks and embedders under STDiT3's parameter names. Subclasses make the tokens and read the output."""

    def __init__(self, config: ModelConfig, channels: int = 4) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        width, heads, ratio = config.width, config.heads, config.mlp_ratio
        self.rope = Rope(config.head_width)
        self.x_embedder = PatchEmbed(channels, width, config.patch)
        self.t_embedder = ScalarEmbed(width)
        self.fps_embedder = ScalarEmbed(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbed(config.text_width, config.text_tokens, width)
        self.spatial_blocks = nn.ModuleList(
            Block(width, heads, ratio, temporal=False, qk_norm=config.qk_norm_spatial) for _ in range(config.depth)
        )
        self.temporal_blocks = nn.ModuleList(
            Block(width, heads, ratio, temporal=True, qk_norm=config.qk_norm_temporal) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(width, self.channels_out(channels, config.patch))

    def channels_out(self, channels: int, patch: tuple[int, int]) -> int:
        """Output channels of a head per token: twice as many with a learned variance."""
        return (2 if self.config.learned_variance else 1) * channels * patch[0] * patch[1]

    @property
    def blocks(self) -> list[Block]:
        """All blocks in execution order: spatial 0, temporal 0, spatial 1, ..."""
        pairs = zip(self.spatial_blocks, self.temporal_blocks, strict=True)
        return [block for pair in pairs for block in pair if isinstance(block, Block)]

    def embed_text(self, text: Tensor, text_mask: Tensor | None, drop_text: Tensor | None = None) -> TextKVCache:
        """Embed captions; each block computes its own keys and values from them.

        Args:
            text: (B, M, text width); text_mask: bool (B, M), True = token, None = all; at least one per row.
            drop_text: bool (B,), True where the null caption replaces the caption.
        """
        mask = text.new_ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask.bool()
        if drop_text is not None:
            null = self.y_embedder.y_embedding[: self.config.null_tokens]
            text, mask = drop_captions(text, mask, drop_text, null)
        embedded: Tensor = self.y_embedder(text)  # (B, M, D)
        return TextKVCache([embedded] * len(self.blocks), mask[:, None, None])

    def cache_text(self, text: Tensor, text_mask: Tensor | None, drop_text: Tensor | None = None) -> TextKVCache:
        """As `embed_text`, with the keys and values of every block, to be used in every sampling step."""
        captions, mask = self.embed_text(text, text_mask, drop_text)
        pairs = zip(self.blocks, captions, strict=True)
        return TextKVCache(
            [block.cross_attn.keys_values(each) for block, each in pairs if isinstance(each, Tensor)], mask
        )

    def run_blocks(
        self,
        x: Tensor,
        levels: Tensor,
        level: Tensor,
        text_cache: TextKVCache,
        fps: Tensor | None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all blocks.

        Args:
            x: embedded tokens (B, T, S, D).
            levels: (B, L) distinct times of each clip, float32; level: long, broadcasts to (B, T, S), a token's index.
        Returns: tokens (B, T, S, D), and the embedded times (B, L, D) for the final layer.
        """
        rate = levels.new_full((x.shape[0],), self.config.fps) if fps is None else fps
        times = self.t_embedder(levels) + self.fps_embedder(rate)[:, None]  # (B, L, D), float32
        with torch.autocast(times.device.type, enabled=False):
            modulation = self.t_block(times).unflatten(2, (6, -1))  # (B, L, 6, D), float32
        context = Context(
            modulation=modulation,
            level=level,
            text_mask=text_cache.mask,
            rotation=rotation_table(self.rope.freqs, x.shape[1]),
            visible=visible,
        )
        for block, caption in zip(self.blocks, text_cache.captions, strict=True):
            x = block(x, context, caption)
        return x, times

    def set_checkpointing(self, mode: Checkpointing) -> None:
        """Choose which activations the backward pass recomputes."""
        for block in self.blocks:
            block.checkpointing = mode

    def compile_blocks(self) -> None:
        """Compile the blocks: one graph for spatial and one for temporal blocks. Parameter names do not change."""
        for block in self.blocks:
            block.compile()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all initial weights: PixArt's rules for spatial parts, Open-Sora's for temporal ones.

        Linear maps are Xavier (the patch kernel too); times, captions and modulation are N(0, 0.02); biases are zero.
        The projections of cross-attention and of the heads are zero. Temporal blocks start as the identity, and the
        frame rate has no effect at first. Sources: PixArt-alpha `initialize_weights`, Open-Sora 1.2 `STDiT3`.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1).detach(), generator=generator)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, Block | FinalLayer):
                nn.init.normal_(module.scale_shift_table, std=self.config.width**-0.5, generator=generator)
        blocks, temporal = self.blocks, self.blocks[1::2]
        small = [self.t_embedder.mlp, self.t_block, self.y_embedder.y_proj, self.fps_embedder.mlp[0]]
        zero = [self.fps_embedder.mlp[2], *(block.cross_attn.proj for block in blocks)]
        zero += [module.linear for module in self.modules() if isinstance(module, FinalLayer)]
        zero += [layer for block in temporal for layer in (block.attn.proj, block.mlp.fc2)]
        for linear in _linears(small):
            nn.init.normal_(linear.weight, std=0.02, generator=generator)
        for linear in _linears(zero):
            nn.init.zeros_(linear.weight)
        nn.init.normal_(self.y_embedder.y_embedding, std=self.config.text_width**-0.5, generator=generator)


def _linears(modules: list[nn.Module]) -> list[nn.Linear]:
    return [linear for module in modules for linear in module.modules() if isinstance(linear, nn.Linear)]
