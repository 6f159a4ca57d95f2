"""The video codec of the paper: Open-Sora VAE 1.2, frozen.

    (68, 256, 256, 3) uint8 -> (4, 20, 32, 32)

Any number of frames, any size that 8 divides. A second of video (17 frames) is a chunk and becomes five latent frames
on its own, so every whole-second window of a longer clip's latent is exactly the latent of that window.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from uniform.codecs.base import CodecCard
from uniform.codecs.catalogue import published
from uniform.codecs.device import pick_device, pick_dtype
from uniform.codecs.hub import Source, open_source
from uniform.codecs.opensora_vae import SPATIAL_SCALE, OpenSoraVae, VaeConfig
from uniform.codecs.posterior import split_moments
from uniform.codecs.weights import load_strict, read_json, read_shapes, read_state, require_layout, weights_sha256
from uniform.errors import ConfigError, InputError, SpecMismatchError
from uniform.spec import VIDEO_STRIDE_PX, Spec, latent_frames

CODE_VERSION = 1
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

_CPU_FRAME_BATCH, _GPU_FRAME_BATCH, _GPU_CHUNK_BATCH = 4, 32, 32


class OpenSoraCodec:
    """Frames to latents and back; the weights are read at the first use, their layout is checked at once.

    Args:
        vae: the network, on the meta device.
        path: its weights, already checked against the network's layout.
        card: metadata for shards.
        posterior: "mean", or "sample" as the original does.
        seed: of the samples. The noise of a clip depends on it and on the clip's pixels, not on other clips.
    """

    def __init__(
        self,
        vae: OpenSoraVae,
        path: Path,
        card: CodecCard,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
        posterior: Literal["mean", "sample"],
        seed: int,
    ) -> None:
        self.card = card
        self._vae, self._path, self._loaded = vae, path, False
        self._device, self._dtype, self._compiled = device, dtype, compiled
        self._posterior, self._seed = posterior, seed

    @property
    def vae(self) -> OpenSoraVae:
        """The network with its weights. Raises WeightsError where they are damaged."""
        if not self._loaded:
            load_strict(self._vae, read_state(self._path), f"{self.card.name}: {self._path}")
            self._vae.prepare(self._device, self._dtype, compiled=self._compiled)
            self._loaded = True
        return self._vae

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3), RGB -> float32 (B, 4, T', H / 8, W / 8), before shift and scale.

        Float frames in [-1, 1] are accepted too. Raises InputError for another shape or type.
        """
        mean, std = self.encode_moments(frames)
        if self._posterior == "mean":
            return mean
        noise = torch.stack([self._noise("temporal", clip, mean.shape[1:]) for clip in frames])
        return mean + std * noise.to(mean.device)

    def encode_moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `encode`: mean and standard std of the posterior, each float32 (B, 4, T', H / 8, W / 8)."""
        _check_frames(frames)
        clips, length, height, width = frames.shape[:4]
        noise = None
        if self._posterior == "sample":
            shape = (length, self._vae.config.temporal.channels, height // VIDEO_STRIDE_PX, width // VIDEO_STRIDE_PX)
            noise = torch.cat([self._noise("spatial", clip, shape) for clip in frames])
        spatial = self.vae.spatial_encode(frames.flatten(0, 1), noise)  # (B * T, 4, h, w)
        spatial = spatial.reshape(clips, length, *spatial.shape[1:]).transpose(1, 2)  # (B, 4, T, h, w)
        return split_moments(self.vae.temporal_moments(spatial))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """float32 (B, 4, T', h, w), before shift and scale -> uint8 (B, num_frames, 8 h, 8 w, 3), RGB."""
        pixels = self.decode_pixels(latents, num_frames)
        return ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def decode_pixels(self, latents: Tensor, num_frames: int) -> Tensor:
        """As `decode`, float32, about [-1, 1], neither clamped nor rounded."""
        config = self._vae.config
        wanted = latent_frames(num_frames, config.chunk_frames)
        channels = config.temporal.channels
        if latents.dim() != 5 or latents.shape[1:3] != (channels, wanted) or num_frames < 1:
            raise InputError(
                f"{self.card.name}: latents have shape {tuple(latents.shape)}; {num_frames} frames come from "
                f"(clips, {channels}, {wanted}, rows, columns). Give the number of frames that was encoded."
            )
        spatial = self.vae.temporal_decode(latents.float(), num_frames).transpose(1, 2)  # (B, T, 4, h, w)
        frames = self.vae.spatial_decode(spatial.flatten(0, 1))
        return frames.reshape(len(latents), num_frames, *frames.shape[1:])

    def halve_batches(self) -> bool:
        """Halve the batches after running out of memory; False where they are single frames and chunks already."""
        vae = self._vae
        before = vae.frame_batch, vae.chunk_batch
        vae.frame_batch, vae.chunk_batch = max(1, vae.frame_batch // 2), max(1, vae.chunk_batch // 2)
        return before != (vae.frame_batch, vae.chunk_batch)

    def _noise(self, stage: str, clip: Tensor, shape: tuple[int, ...]) -> Tensor:
        pixels = hashlib.sha256(f"{self._seed}:{stage}:".encode())
        pixels.update(clip.cpu().contiguous().numpy().tobytes())
        generator = torch.Generator().manual_seed(int.from_bytes(pixels.digest()[:8], "big") >> 1)
        return torch.randn(shape, generator=generator)


def _check_frames(frames: Tensor) -> None:
    if frames.dim() != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"frames have shape {tuple(frames.shape)}; wanted (clips, frames, rows, columns, 3), none empty"
        )
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise InputError(f"frames are {frames.dtype}; wanted uint8, or float in [-1, 1]")
    for name, size in (("rows", frames.shape[2]), ("columns", frames.shape[3])):
        if size % VIDEO_STRIDE_PX:
            below = size - size % VIDEO_STRIDE_PX
            raise InputError(
                f"frames have {size} {name}, which {VIDEO_STRIDE_PX} does not divide; resize or crop to "
                f"{below or VIDEO_STRIDE_PX} or {below + VIDEO_STRIDE_PX}"
            )


# One interface for all codecs of published weights, so the signatures are alike.
def open_codec(
    name: str,
    spec: Spec,
    *,
    weights: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    frame_batch: int | None = None,
    chunk_batch: int | None = None,
    compiled: bool = False,
    posterior: Literal["mean", "sample"] = "mean",
    seed: int = 0,
) -> OpenSoraCodec:
    """The codec with published weights.

    Args:
        name: "opensora-v1.2".
        spec: its chunk length must be the codec's.
        weights: folder, weight file or hub id; None is the catalogue's. A `config.json` beside the weights may name
            other sizes; without one the published sizes are required.
        revision: of the hub; None is what `uniform weights fetch` recorded.
        device: auto, cpu, cuda, mps.
        dtype: float32 or bfloat16 (norms and posteriors stay float32).
        frame_batch, chunk_batch: frames and chunks per batch, always exactly this number (the last batch is
            padded): memory against speed. None: 4 frames and one clip's chunks on a CPU, 32 and 32 elsewhere.
        compiled: run through torch.compile.
        posterior: "mean", or "sample" with `seed`.
    Raises: WeightsError for weights that are missing or of another model; SpecMismatchError; ConfigError.
    """
    if posterior not in ("mean", "sample"):
        raise ConfigError(f"posterior is '{posterior}'; known: mean, sample")
    where, precision = pick_device(device), pick_dtype(dtype)
    path, *others = needed_files(open_source(name, weights, revision))
    config = VaeConfig.from_json(read_json(others[0]), str(others[0])) if others else VaeConfig()
    on_cpu, clip_chunks = where.type == "cpu", max(1, spec.frames // spec.chunk_frames)
    vae = _network(
        config,
        spec,
        path,
        frame_batch=frame_batch or (_CPU_FRAME_BATCH if on_cpu else _GPU_FRAME_BATCH),
        chunk_batch=chunk_batch or (clip_chunks if on_cpu else _GPU_CHUNK_BATCH),
    )
    settings = {
        "chunk_frames": config.chunk_frames,
        "spatial_scale": SPATIAL_SCALE,
        "dtype": dtype,
        "posterior": posterior if posterior == "mean" else f"sample, seed {seed}",
    }
    card = _card(name, path, settings)
    return OpenSoraCodec(
        vae, path, card, device=where, dtype=precision, compiled=compiled, posterior=posterior, seed=seed
    )


def _network(config: VaeConfig, spec: Spec, path: Path, *, frame_batch: int, chunk_batch: int) -> OpenSoraVae:
    """The network without weights; checks the layout of `path`."""
    if (config.chunk_frames, config.temporal.channels) != (spec.chunk_frames, spec.video_channels):
        raise SpecMismatchError(
            f"{path} encodes chunks of {config.chunk_frames} frames to {config.temporal.channels} channels; "
            f"spec '{spec.name}' has {spec.chunk_frames} and {spec.video_channels}. Choose a spec that agrees."
        )
    with torch.device("meta"):
        vae = OpenSoraVae(config, frame_batch=frame_batch, chunk_batch=chunk_batch)
    layout = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    require_layout(read_shapes(path), layout, f"Open-Sora VAE 1.2: {path}")
    return vae


def _card(name: str, path: Path, settings: dict[str, Any]) -> CodecCard:
    statistics = read_state(path, ("shift", "scale"))
    return CodecCard(
        name=name,
        code_version=CODE_VERSION,
        settings=settings,
        weights_sha256=weights_sha256(path),
        shift=tuple(statistics["shift"].flatten().tolist()),
        scale=tuple(statistics["scale"].flatten().tolist()),
        licence=published(name).terms,
    )


def needed_files(source: Source) -> list[Path]:
    """The weight file, and `config.json` where there is one; downloaded where missing."""
    path = source.weight_file or source.file(*WEIGHT_FILES)
    config = source.at_commit_of(path).find("config.json")
    return [path] if config is None else [path, config]
