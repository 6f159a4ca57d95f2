"""UniForm: one diffusion transformer over video, audio, task and text (paper, 3.2).

    noisy video --- patches ---+
    noisy audio -- fold ----+  +-- tokens (B, T, S, D) -- [spatial block, temporal block] x depth -- heads -- both
    task -- embedding ------+--+                                     |
                                                            text, times, frame rate

Shapes: B clips, T latent frames, S tokens per frame, D width. A conditioning modality enters as its clean
latent with time 0, and its tokens are modulated by time 0; it has no other mark.
"""

import torch
from torch import Tensor, nn

from uniform.errors import InputError
from uniform.model.backbone import Backbone, FinalLayer, TextKVCache
from uniform.model.config import SIZES, ModelConfig
from uniform.model.embed import PatchEmbed, position_code, unpatch
from uniform.model.layout import CLEAN, GridLayout, Layout, TokensLayout
from uniform.pair import Pair
from uniform.tasks import Task

__all__ = ["SIZES", "ModelConfig", "TextKVCache", "UniForm", "make_layout"]


class UniForm(Backbone):
    """STDiT3's blocks over the tokens of both modalities and a task.

    Parameter names are STDiT3's; new are `task_embedder`, and for separate weights `audio_embedder`, `audio_final`.
    """

    position: Tensor
    level: Tensor
    visible: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        video_latent: tuple[int, int, int, int],
        audio_latent: tuple[int, int, int],
        seed: int = 0,
    ) -> None:
        """Build a network with initial weights.

        Args:
            video_latent: (channels, latent frames, rows, columns); audio_latent: (channels, time, frequency).
            seed: of the initial weights.
        Raises: ConfigError where the layout does not fit the latents; names the size and sizes that fit.
        """
        super().__init__(config, video_latent[0])
        self.video_latent, self.audio_latent = video_latent, audio_latent
        self.layout = make_layout(config, video_latent, audio_latent)
        audio = self.layout.audio_part
        self.task_embedder = nn.Embedding(len(Task), self.layout.task_cells or config.width)
        if config.layout == "tokens" or config.share == "split":
            self.audio_embedder = PatchEmbed(audio.channels, config.width, audio.patch)
            self.audio_final = FinalLayer(config.width, self.channels_out(audio.channels, audio.patch))
        places = self.layout.positions(config.input_sq_size)
        level = self.layout.levels()
        self.register_buffer("position", position_code(places, config.width), persistent=False)
        self.register_buffer("level", level, persistent=False)
        visible = _same_modality(level) if config.cross_modal_mask else None
        self.register_buffer("visible", visible, persistent=False)
        self.initialise(torch.Generator().manual_seed(seed))

    def initialise(self, generator: torch.Generator) -> None:
        """As the backbone. Task cells have the std of latents, 1; a task token that of embeddings, 0.02."""
        super().initialise(generator)
        nn.init.normal_(self.task_embedder.weight, std=1.0 if self.layout.task_cells else 0.02, generator=generator)

    def forward(
        self,
        noisy: Pair,
        time: Pair,
        task: Tensor,
        text: Tensor | TextKVCache,
        text_mask: Tensor | None = None,
        fps: Tensor | None = None,
        drop_text: Tensor | None = None,
    ) -> Pair:
        """Predict the target of the objective (noise or velocity) of both modalities, and variance logits if learned.

        Args:
            noisy: normalised latents (B, C, T, H, W) and (B, C, time, frequency); a conditioning modality clean.
            time: (B,) of each modality, float32, 0 to 1000; 0 = clean.
            task: long (B,), `Task.number`.
            text: (B, M, text width) with text_mask bool (B, M), True = token, at least one a row; or a text
                cache of `cache_text`, which includes mask and dropping.
            fps: (B,) frames per second; the config's where None.
            drop_text: bool (B,), True where the null caption replaces the caption.
        Returns: float32, the shapes of `noisy`, with twice the channels where the variance is learned.
        Raises: InputError where latents or text have another shape than the network's.
        """
        if isinstance(text, Tensor):
            self._check_text(text)
            text = self.embed_text(text, text_mask, drop_text)
        self._check_latents(noisy)
        x = self._embed(noisy, task)  # (B, T, S, D)
        levels = torch.stack([time.video, time.audio, torch.zeros_like(time.video)], dim=1).float()  # (B, 3)
        x, times = self.run_blocks(x, levels, self.level[None, None], text, fps, self.visible)
        return self._read(x, times)

    def _embed(self, noisy: Pair, task: Tensor) -> Tensor:
        """Embed latents and task. The task is added in every call, so that it is never noised."""
        task_embedding = self.task_embedder(task)  # (B, task cells) or (B, D)
        in_grid = self.layout.task_cells > 0
        audio = self._audio_patch_embed(self.layout.fold(noisy.audio, task_embedding if in_grid else None))
        parts = [self.x_embedder(noisy.video), audio]
        if not in_grid:
            parts.append(task_embedding[:, None, None].expand(-1, self.layout.frames, -1, -1).to(audio.dtype))
        x = torch.cat(parts, dim=2)  # (B, T, S, D)
        return x + self.position.to(x.dtype)

    def _read(self, x: Tensor, times: Tensor) -> Pair:
        """Tokens to the output of both modalities; the output in the task's cells is discarded."""
        video, audio = self.layout.video_part, self.layout.audio_part
        level = self.level[None, None]
        video_tokens, audio_tokens = slice(0, video.tokens), slice(video.tokens, video.tokens + audio.tokens)
        patches = self.final_layer(x[:, :, video_tokens], times, level[..., video_tokens])
        video_cells = unpatch(patches, video.patch, video.rows, video.columns)  # (B, C or 2C, T, H, W)
        patches = self._audio_head(x[:, :, audio_tokens], times, level[..., audio_tokens])
        audio_cells = unpatch(patches, audio.patch, audio.rows, audio.columns)  # (B, C or 2C, T, rows, columns)
        return Pair(video_cells.float(), self.layout.unfold(audio_cells).float())

    @property
    def _audio_patch_embed(self) -> PatchEmbed:
        return self.audio_embedder if hasattr(self, "audio_embedder") else self.x_embedder

    @property
    def _audio_head(self) -> FinalLayer:
        return self.audio_final if hasattr(self, "audio_final") else self.final_layer

    def _check_latents(self, noisy: Pair) -> None:
        found = tuple(noisy.video.shape[1:]), tuple(noisy.audio.shape[1:])
        if found != (tuple(self.video_latent), tuple(self.audio_latent)):
            raise InputError(
                f"latents are {found[0]} and {found[1]}, this model was made for {tuple(self.video_latent)} and "
                f"{tuple(self.audio_latent)}. Use latents of the spec it was trained on."
            )

    def _check_text(self, text: Tensor) -> None:
        if text.shape[2] != self.config.text_width:
            raise InputError(
                f"text features have {text.shape[2]} dimensions per token, this model reads {self.config.text_width}. "
                f"Use the text codec it was trained with."
            )


def make_layout(
    config: ModelConfig, video_latent: tuple[int, int, int, int], audio_latent: tuple[int, int, int]
) -> Layout:
    """Build the layout that the config names. Raises ConfigError where it does not fit the latents."""
    if config.layout == "grid":
        return GridLayout(video_latent, audio_latent, config.patch)
    return TokensLayout(video_latent, audio_latent, config.patch, config.audio_patch)


def _same_modality(level: Tensor) -> Tensor:
    """Bool (S, S): tokens attend to their own modality and the task; the task attends to itself only."""
    return (level[:, None] == level[None]) | (level[None] == CLEAN)
