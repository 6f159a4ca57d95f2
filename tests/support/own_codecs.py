"""Codecs of another project, for tests of the ways in: one of each kind keeps the interface, some do not."""

from typing import Any

import torch
from torch import Tensor

from uniform.codecs.audio_dct import open_codec as open_dct_audio
from uniform.codecs.base import CodecCard
from uniform.codecs.text_bytes import open_codec as open_bytes
from uniform.codecs.video_dct import open_codec as open_dct_video
from uniform.errors import InputError
from uniform.spec import Spec


class MeanVideo:
    """The mean colour of each block and latent frame, in three of the spec's channels."""

    def __init__(self, name: str, spec: Spec, gain: float = 1.0) -> None:
        self.spec, self.gain = spec, gain
        channels = spec.video_channels
        self.card = CodecCard(
            name=name,
            code_version=1,
            settings={"gain": gain},
            weights_sha256=None,
            shift=(0.5,) * channels,
            scale=(0.25,) * channels,
        )

    def encode(self, frames: Tensor) -> Tensor:
        if frames.dim() != 5 or frames.dtype != torch.uint8:
            raise InputError(f"frames are {frames.dtype} {tuple(frames.shape)}; wanted uint8 (B, T, H, W, 3)")
        channels, time, rows, columns = self.spec.video_latent
        small = torch.nn.functional.adaptive_avg_pool3d(frames.movedim(-1, 1).float() / 255, (time, rows, columns))
        filler = small.mean(dim=1, keepdim=True).expand(-1, channels - 3, -1, -1, -1)
        return self.gain * torch.cat([small, filler], dim=1)

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        size = (num_frames, self.spec.height_px, self.spec.width_px)
        colours = torch.nn.functional.interpolate(latents[:, :3] / self.gain, size)
        return (colours.movedim(1, -1) * 255).round().clamp(0, 255).to(torch.uint8)


def open_audio(name: str, spec: Spec, **options: Any) -> Any:
    """The toolkit's audio codec under another name."""
    codec = open_dct_audio("dct", spec, **options)
    codec.card = CodecCard(**{**vars(codec.card), "name": name})
    return codec


def open_text(name: str, spec: Spec) -> Any:
    """The toolkit's text codec under another name."""
    codec = open_bytes("bytes", spec)
    codec.card = CodecCard(**{**vars(codec.card), "name": name})
    return codec


def open_careless(name: str, spec: Spec) -> Any:
    """Changes its input, adds noise of its own, and returns doubles."""
    inner = MeanVideo(name, spec)
    honest = inner.encode

    def encode(frames: Tensor) -> Tensor:
        latents = honest(frames.clone()).double()
        frames.zero_()
        return latents + torch.rand(()).double()

    inner.encode = encode  # type: ignore[method-assign]
    return inner


def open_half(name: str, spec: Spec) -> Any:
    """Lacks `decode`."""
    return type("Half", (), {"card": MeanVideo(name, spec).card, "encode": lambda self, frames: frames})()


def open_misnamed(name: str, spec: Spec) -> Any:
    """Its card has the name of another codec."""
    return open_dct_video("dct", spec)


NOT_A_FACTORY = 3
