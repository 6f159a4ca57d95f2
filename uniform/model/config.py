"""Configuration of the network, and the named sizes."""

from dataclasses import dataclass
from typing import Literal

from uniform.errors import ConfigError

Checkpointing = Literal["none", "selective", "full"]
"""What the backward pass recomputes: nothing, everything but matrix products and attention, or whole blocks."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of the network. Defaults are the preset `paper`: STDiT3-XL/2 with shared weights."""

    depth: int = 28
    """Pairs of a spatial and a temporal block."""
    width: int = 1152
    heads: int = 16
    mlp_ratio: int = 4
    """Width of the feed-forward layer over `width`."""
    patch: tuple[int, int] = (2, 2)
    """Latent rows and columns per video token (and, in the grid, per audio token). Time is never patched."""

    layout: Literal["grid", "tokens"] = "grid"
    """`grid` joins audio and task to the video latent before patching (paper, 3.2.2); `tokens` joins after
    separate patch embedders and fits any size."""
    share: Literal["shared", "split"] = "shared"
    """Grid only: one patch embedder and head for both modalities (paper), or one each."""
    audio_patch: tuple[int, int] = (1, 2)
    """Tokens only: audio latent times and frequencies per token."""
    cross_modal_mask: bool = False
    """Mask each modality from the other in every attention: a control that must stay at chance, not a useful model."""

    text_width: int = 4096
    """Dimensions of a caption token; 4,096 is T5 v1.1 XXL."""
    text_tokens: int = 300
    """Rows of the null caption's table; the text codec cuts longer captions."""
    null_tokens: int = 1
    """Rows of that table that a dropped caption becomes. One, since the empty caption of T5 is a single token. Our
    choice: STDiT3 keeps the dropped caption's length, which a sample without a caption does not have."""

    qk_norm_spatial: bool = True
    """Normalise queries and keys in spatial blocks. Off makes a PixArt initialisation exact at step 0."""
    qk_norm_temporal: bool = True
    learned_variance: bool = True
    """Twice the output channels: the prediction, then the variance logits."""
    input_sq_size: int = 512
    """Frame height and width in pixels at which neighbouring tokens are one unit of the position code apart."""
    fps: float = 17.0
    """Frame rate for the embedder where the caller passes none; training sets that of the shards' spec."""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "mlp_ratio", "text_width", "text_tokens", "null_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("patch", "audio_patch"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; it must be two whole numbers, 1 or more")
        if self.input_sq_size < 1 or self.fps <= 0:
            raise ConfigError(f"model.input_sq_size {self.input_sq_size} and fps {self.fps} must be above 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(
                f"model.width is {self.width} and model.heads {self.heads}: a head would have "
                f"{self.width / self.heads:g} dimensions. It must be an even whole number."
            )
        if self.width % 4:
            raise ConfigError(f"model.width is {self.width}; the position code needs a multiple of 4")
        if self.null_tokens > self.text_tokens:
            raise ConfigError(
                f"model.null_tokens is {self.null_tokens}, more than model.text_tokens {self.text_tokens}"
            )
        if self.layout == "tokens" and self.share == "split":
            raise ConfigError("model.share 'split' needs layout 'grid'; layout 'tokens' always has separate embedders")

    @property
    def head_width(self) -> int:
        """Dimensions per attention head."""
        return self.width // self.heads


SIZES: dict[str, ModelConfig] = {
    "XL/2": ModelConfig(),
    "3B/2": ModelConfig(width=1872, heads=26),
    "B/2": ModelConfig(depth=12, width=768, heads=12),
    "S/2": ModelConfig(depth=12, width=384, heads=6),
    "toy": ModelConfig(depth=3, width=128, heads=4, share="split", text_width=64, text_tokens=64, input_sq_size=64),
}
"""Named sizes. XL/2 and 3B/2 are STDiT3's (28 pairs); the others are for one small device, or a CPU."""
