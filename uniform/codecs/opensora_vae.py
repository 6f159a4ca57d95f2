"""The complete Open-Sora VAE 1.2: an image VAE per frame, then a temporal VAE per chunk, in the published layout.

The spatial half is the SDXL VAE of diffusers. Its latents are multiplied by 0.18215 although its own config
says 0.13025: the temporal half was trained with it, so both directions use 0.18215.

Shapes: B clips, T frames, H x W pixels (multiples of 8), h = H / 8, w = W / 8; T' latent frames, 5 for each whole
chunk of 17 frames and one for every begun 4 of the rest. Chunks are independent.
Source: Open-Sora 1.2 (`opensora/models/vae`), "Open-Sora 1.2 Report", 3D VAE.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from uniform.codecs.device import RowsFunction, in_fixed_batches, precision
from uniform.codecs.opensora_temporal import NORM_GROUPS, TemporalConfig, TemporalVae
from uniform.codecs.posterior import split_moments
from uniform.errors import WeightsError
from uniform.spec import FRAMES_PER_LATENT, VIDEO_STRIDE_PX

SPATIAL_SCALE = 0.18215
"""Factor of spatial latents in the original, which differs from its VAE's config."""


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Sizes of both halves; the defaults are the published ones. A `config.json` beside the weights may change them."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    chunk_frames: int = 17

    def __post_init__(self) -> None:
        levels, temporal = len(self.block_out_channels), self.temporal
        if 2 ** (levels - 1) != VIDEO_STRIDE_PX or temporal.stride != FRAMES_PER_LATENT:
            raise ValueError(f"{levels} spatial levels and {temporal.stride} frames per latent frame; wanted 4 and 4")
        if len(temporal.multipliers) != len(temporal.downsample) + 1:
            raise ValueError(f"{len(temporal.multipliers)} widths and {len(temporal.downsample)} steps between them")
        widths = (*self.block_out_channels, temporal.filters, *temporal.widths)
        if any(width < 1 or width % NORM_GROUPS for width in widths):
            raise ValueError(f"widths {widths}; each must be a multiple of {NORM_GROUPS}, the groups of its norms")
        if min(self.layers_per_block, temporal.blocks, self.chunk_frames) < 1:
            raise ValueError("a level without blocks, or a chunk without frames")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "VaeConfig":
        """Sizes from a `config.json` in the published form: tables `vae_2d` and `vae_temporal`, `micro_frame_size`.

        The published file names no sizes, so it gives the published ones. Raises WeightsError for a wrong value.
        """
        try:
            spatial, temporal = values.get("vae_2d") or {}, values.get("vae_temporal") or {}
            published, chunk_frames = cls(), values.get("micro_frame_size", 17)
            if not isinstance(chunk_frames, int):
                raise TypeError(f"micro_frame_size is {chunk_frames!r}; wanted a whole number")
            return cls(
                block_out_channels=tuple(spatial.get("block_out_channels", published.block_out_channels)),
                layers_per_block=int(spatial.get("layers_per_block", published.layers_per_block)),
                temporal=TemporalConfig(
                    filters=int(temporal.get("filters", published.temporal.filters)),
                    multipliers=tuple(temporal.get("channel_multipliers", published.temporal.multipliers)),
                    blocks=int(temporal.get("num_res_blocks", published.temporal.blocks)),
                    downsample=tuple(temporal.get("temporal_downsample", published.temporal.downsample)),
                ),
                chunk_frames=chunk_frames,
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"{where}: not an Open-Sora VAE's config ({error}). Fetch it again.") from error


class OpenSoraVae(nn.Module):
    """Both halves under the published keys, 517 tensors at the published size.

    Args:
        config: sizes.
        frame_batch: frames that go through the spatial half at a time, always exactly this number.
        chunk_batch: chunks that go through the temporal half at a time, always exactly this number.
    """

    def __init__(self, config: VaeConfig, *, frame_batch: int = 4, chunk_batch: int = 4) -> None:
        super().__init__()
        self.config, self.frame_batch, self.chunk_batch = config, frame_batch, chunk_batch
        levels, channels = len(config.block_out_channels), config.temporal.channels
        spatial: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
            block_out_channels=config.block_out_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=config.layers_per_block,
            latent_channels=channels,
        )
        self.spatial_vae = nn.ModuleDict({"module": spatial})
        self.temporal_vae = TemporalVae(config.temporal)
        self.register_buffer("shift", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1, 1))
        self.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def _spatial(self) -> Any:
        return self.spatial_vae["module"]  # diffusers is not typed

    def prepare(self, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Move the weights, lay them out channels-last, and set the precision."""
        self.requires_grad_(False).eval()
        self.to(device)
        self.dtype = dtype
        self._spatial.to(memory_format=torch.channels_last)
        halves: list[Any] = [self._spatial, self.temporal_vae]
        if device.type != "mps":  # MPS has no such layout in three dimensions
            halves[1].to(memory_format=torch.channels_last_3d)
        if compiled:
            for half in halves:
                half.encoder.compile(dynamic=False)
                half.decoder.compile(dynamic=False)

    def spatial_encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames to spatial latents, `SPATIAL_SCALE` included.

        Args:
            frames: (N, H, W, 3), uint8, or float in [-1, 1].
            noise: (N, 4, h, w) to sample with; None gives the posterior's mean.
        Returns: float32 (N, 4, h, w), on the weights' device.
        """

        def moments(batch: Tensor) -> Tensor:
            pixels = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # channels-last in memory already
            if pixels.dtype == torch.uint8:
                pixels = pixels.float() / 127.5 - 1.0
            with precision(self.device, self.dtype):
                hidden = vae.encoder(pixels)
            with precision(self.device, torch.float32):
                quantised: Tensor = vae.quant_conv(hidden.float())
            return quantised.contiguous()

        vae = self._spatial
        mean, std = split_moments(in_fixed_batches(moments, frames, self.frame_batch))
        if noise is not None:
            mean = mean + std * noise.to(mean.device)
        return mean * SPATIAL_SCALE

    def spatial_decode(self, latents: Tensor) -> Tensor:
        """Spatial latents (N, 4, h, w) to frames, float32 (N, H, W, 3), about [-1, 1]."""

        def pixels(batch: Tensor) -> Tensor:
            with precision(self.device, torch.float32):
                hidden = vae.post_quant_conv(batch.to(self.device) / SPATIAL_SCALE)
            with precision(self.device, self.dtype):
                decoded: Tensor = vae.decoder(hidden)
            return decoded.float().permute(0, 2, 3, 1)

        vae = self._spatial
        return in_fixed_batches(pixels, latents, self.frame_batch)

    def temporal_moments(self, spatial: Tensor) -> Tensor:
        """Spatial latents (B, 4, T, h, w) to mean and log variance, float32 (B, 8, T', h, w), chunk by chunk."""

        def moments(batch: Tensor) -> Tensor:
            with precision(self.device, self.dtype):
                return self.temporal_vae.moments(batch).float()

        whole = spatial.shape[2] // self.config.chunk_frames
        return self._by_chunks(spatial, whole, self.config.chunk_frames, moments, moments)

    def temporal_decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Latents (B, 4, T', h, w) to spatial latents, float32 (B, 4, num_frames, h, w), chunk by chunk."""

        def decode(frames: int) -> RowsFunction:
            def run(batch: Tensor) -> Tensor:
                with precision(self.device, self.dtype):
                    return self.temporal_vae.decode(batch.to(self.device), frames).float()

            return run

        whole, rest = divmod(num_frames, self.config.chunk_frames)
        chunk_latents = -(-self.config.chunk_frames // self.config.temporal.stride)
        return self._by_chunks(latents, whole, chunk_latents, decode(self.config.chunk_frames), decode(rest))

    def _by_chunks(self, x: Tensor, whole: int, length: int, run: RowsFunction, run_rest: RowsFunction) -> Tensor:
        """x (B, C, L, h, w): the `whole` chunks of `length` of all clips as one batch, then the rests as another."""
        parts = []
        clips, channels, _, *frame = x.shape
        if whole:
            chunks = x[:, :, : whole * length].reshape(clips, channels, whole, length, *frame)
            done = in_fixed_batches(run, chunks.transpose(1, 2).flatten(0, 1), self.chunk_batch)  # (B * whole, ...)
            parts.append(done.reshape(clips, whole, *done.shape[1:]).transpose(1, 2).flatten(2, 3))
        rest = x[:, :, whole * length :]
        if rest.shape[2]:
            parts.append(in_fixed_batches(run_rest, rest, self.chunk_batch))
        return torch.cat(parts, dim=2)
