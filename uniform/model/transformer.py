"""UniForm: one diffusion transformer that hears, sees and reads (paper, 3.2).

    noisy video --- patches ---+
    noisy audio -- fold ----+  +-- tokens (B, T, S, D) -- [spatial block, temporal block] x depth -- heads -- both
    task -- embedding ------+--+                                     |
                                                            text, times, frame rate

Shapes: B clips, T latent frames, S tokens per frame, D width. A modality that is given enters as its exact clean
latent with time 0, and its tokens are modulated by time 0; nothing else marks it.
"""

import torch
from torch import Tensor, nn

from uniform.errors import InputError
from uniform.model.backbone import Backbone, FinalLayer, TextKVCache
from uniform.model.config import SIZES, ModelConfig, size_by_name
from uniform.model.embed import PatchEmbed, position_code, unpatch
from uniform.model.layout import CLEAN, GridLayout, Layout, TokensLayout
from uniform.pair import Pair
from uniform.tasks import Task

__all__ = ["SIZES", "ModelConfig", "TextKVCache", "UniForm", "make_layout", "size_by_name"]


class UniForm(Backbone):
    """STDiT3's blocks over the tokens of both modalities and a task.

    Names of parameters are STDiT3's; new are `task_embedder`, and for separate weights `audio_embedder`, `audio_final`.
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
        """A fresh network.

        Args:
            video_latent: (channels, latent frames, rows, columns); audio_latent: (channels, time, frequency).
            seed: of the initial weights.
        Raises: ConfigError where the layout does not fit the latents: which number, and what would fit.
        """
        super().__init__(config, video_latent[0])
        self.video_latent, self.audio_latent = video_latent, audio_latent
        self.layout = make_layout(config, video_latent, audio_latent)
        side = self.layout.side
        self.task_embedder = nn.Embedding(len(Task), self.layout.task_cells or config.width)
        if config.layout == "tokens" or config.share == "split":
            self.audio_embedder = PatchEmbed(side.channels, config.width, side.patch)
            self.audio_final = FinalLayer(config.width, self.numbers_out(side.channels, side.patch))
        places = self.layout.positions(config.input_sq_size)
        level = self.layout.levels()
        self.register_buffer("position", position_code(places, config.width), persistent=False)
        self.register_buffer("level", level, persistent=False)
        hidden = _same_modality(level) if config.blind else None
        self.register_buffer("visible", hidden, persistent=False)
        self.initialise(torch.Generator().manual_seed(seed))

    def initialise(self, generator: torch.Generator) -> None:
        """As the backbone; a task's cells are as large as latents are, its token as small as other embeddings."""
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
        """Predict what the objective asks for (noise, velocity) of both modalities, and the variance code if learned.

        Args:
            noisy: normalised latents (B, C, T, H, W) and (B, C, time, frequency); a given modality as it is, clean.
            time: (B,) of each modality, float32, 0 to 1000; 0 = clean.
            task: long (B,), `Task.number`.
            text: (B, M, text width) with text_mask bool (B, M), True = token, at least one a row; or what `remember`
                gave, mask and dropping included.
            fps: (B,) frames per second; the config's where None.
            drop_text: bool (B,), True where the null caption replaces the caption.
        Returns: float32, the shapes of `noisy`, with twice the channels where the variance is learned.
        Raises: InputError where latents or text have another shape than the network's.
        """
        if isinstance(text, Tensor):
            self._check_text(text)
            text = self.read(text, text_mask, drop_text)
        self._check_latents(noisy)
        x = self._embed(noisy, task)  # (B, T, S, D)
        levels = torch.stack([time.video, time.audio, torch.zeros_like(time.video)], dim=1).float()  # (B, 3)
        x, times = self.run_blocks(x, levels, self.level[None, None], text, fps, self.visible)
        return self._read(x, times)

    def _embed(self, noisy: Pair, task: Tensor) -> Tensor:
        """The clean task joins the noisy latents here, anew in every call: it can neither be noised nor drift."""
        own = self.task_embedder(task)  # (B, task cells) or (B, D)
        in_grid = self.layout.task_cells > 0
        side = self._side_embedder(self.layout.fold(noisy.audio, own if in_grid else None))
        parts = [self.x_embedder(noisy.video), side]
        if not in_grid:
            parts.append(own[:, None, None].expand(-1, self.layout.frames, -1, -1).to(side.dtype))
        x = torch.cat(parts, dim=2)  # (B, T, S, D)
        return x + self.position.to(x.dtype)

    def _read(self, x: Tensor, times: Tensor) -> Pair:
        """Tokens to both modalities; what stands in the task's cells is left behind."""
        video, side = self.layout.video, self.layout.side
        level = self.level[None, None]
        seen, heard = slice(0, video.tokens), slice(video.tokens, video.tokens + side.tokens)
        patches = self.final_layer(x[:, :, seen], times, level[..., seen])
        picture = unpatch(patches, video.patch, video.rows, video.columns)  # (B, C or 2C, T, H, W)
        patches = self._side_final(x[:, :, heard], times, level[..., heard])
        sound = unpatch(patches, side.patch, side.rows, side.columns)  # (B, side channels or twice, T, rows, columns)
        return Pair(picture.float(), self.layout.unfold(sound).float())

    @property
    def _side_embedder(self) -> PatchEmbed:
        return self.audio_embedder if hasattr(self, "audio_embedder") else self.x_embedder

    @property
    def _side_final(self) -> FinalLayer:
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
                f"text features have {text.shape[2]} numbers per token, this model reads {self.config.text_width}. "
                f"Use the text codec it was trained with."
            )


def make_layout(
    config: ModelConfig, video_latent: tuple[int, int, int, int], audio_latent: tuple[int, int, int]
) -> Layout:
    """The layout that the config names. Raises ConfigError where it does not fit."""
    if config.layout == "grid":
        return GridLayout(video_latent, audio_latent, config.patch)
    return TokensLayout(video_latent, audio_latent, config.patch, config.audio_patch)


def _same_modality(level: Tensor) -> Tensor:
    """Bool (S, S): tokens see their own modality and the task; the task sees only itself."""
    return (level[:, None] == level[None]) | (level[None] == CLEAN)
