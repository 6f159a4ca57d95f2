"""STDiT3, the video transformer of Open-Sora 1.2: UniForm extends it and can be initialised from its weights.

A state dict of `STDiT3(SIZES["XL/2"])` has the 973 keys of the published checkpoint, name for name.
"""

import torch
from torch import Tensor

from uniform.model.backbone import Backbone, TextKVCache
from uniform.model.config import ModelConfig
from uniform.model.embed import position_code, unpatch
from uniform.model.layout import Part, token_mesh, video_steps


class STDiT3(Backbone):
    """The video-only network, for any frame size and length.

    One difference: the original normalises clean frames twice before the last linear map (`T2IFinalLayer` modulates
    for time 0 what is already modulated for t). That output is never used, neither in the loss nor in sampling. Here
    clean frames are normalised once.
    """

    def __init__(self, config: ModelConfig, channels: int = 4, seed: int = 0) -> None:
        super().__init__(config, channels)
        self.initialise(torch.Generator().manual_seed(seed))

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        text: Tensor | TextKVCache,
        text_mask: Tensor | None = None,
        fps: Tensor | None = None,
        noised_frames: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise, and the variance logits where the variance is learned.

        Args:
            noisy: normalised latents (B, C, T, H, W).
            time: (B,), 0 to 1000.
            text: (B, M, text width) with text_mask bool (B, M), True = token; or a text cache of `cache_text`.
            fps: (B,) frames per second; the config's where None.
            noised_frames: bool (B, T), False for frames that are clean and take time 0; None where all are noised.
        Returns: (B, C or 2C, T, H, W), float32.
        """
        video = Part(self.channels, noisy.shape[3], noisy.shape[4], self.config.patch)
        places = token_mesh(video.grid, *video_steps(video, self.config.input_sq_size))
        x = self.x_embedder(noisy)
        x = x + position_code(places.to(x.device), self.config.width).to(x.dtype)  # (B, T, S, D)
        level = torch.zeros(1, 1, 1, dtype=torch.long, device=x.device)
        levels = time[:, None]
        if noised_frames is not None:
            level = 1 - noised_frames.long()[:, :, None]  # (B, T, 1)
            levels = torch.stack([time, torch.zeros_like(time)], dim=1)
        text_cache = self.embed_text(text, text_mask) if isinstance(text, Tensor) else text
        x, times = self.run_blocks(x, levels, level, text_cache, fps)
        return unpatch(self.final_layer(x, times, level), video.patch, video.rows, video.columns).float()
