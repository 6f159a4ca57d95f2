"""I3D on Kinetics-400: 400 class logits for a clip of frames; the network behind FVD and KVD.

Source: Carreira and Zisserman 2017 (arXiv:1705.07750), in the weights of Google's FVD module. Three protocols:

    i3d_tats   TATS, cd-fvd: frames squashed to 224 x 224; `i3d_pretrained_400.pt`; batch norm with eps 1e-5
    i3d_mmd    MM-Diffusion, JavisBench: short side 224, centre crop; the same file and eps
    i3d_sgv    StyleGAN-V: squashed; its TorchScript file, read as tensors; eps 1e-3, as in training; padding of
               hassony2's port, which differs from the others' where a length is odd (16 frames: nowhere)

Licence: TATS MIT, the original Apache-2.0; StyleGAN-V's file states none.
Input: RGB frames; 9 or more, `i3d_sgv` 10 or more (16 is usual), pixel values x 2 / 255 - 1.

B clips, T frames, C channels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import VideoRule, WeightsFile, checked_frames
from uniform.evaluation.extractors.frames import resized
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches, placed
from uniform.evaluation.extractors.tensor_files import SCRIPT, STATE_DICT, Layout, load_network, shapes_of

SIZE_PX = 224
CLASSES = 400
SHORTEST_FRAMES = {True: 9, False: 10}
"""By padding: the last pooling wants two steps in time, and fewer frames leave one."""
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels in, and of each branch: one 1 x 1; two with 3 x 3 behind 1 x 1; pooling with 1 x 1."""


Triple = tuple[int, int, int]


def _padded(x: Tensor, kernel: Triple, stride: Triple, by_size: bool) -> Tensor:
    """Zeros around `x` (B, C, T, H, W), less before than behind where they are odd.

    Args:
        by_size: TensorFlow's "SAME": the output has ceil(size / stride) steps. Otherwise kernel - stride zeros whatever
            the size, as hassony2's port has it: the same where the stride divides the size, and only there.
    """
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(k - (size % s or s if by_size else s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def _pooled(x: Tensor, kernel: Triple, stride: Triple, by_size: bool) -> Tensor:
    """Maximum pooling. Zeros are fit for padding: every value is a ReLU's, 0 or more."""
    return F.max_pool3d(_padded(x, kernel, stride, by_size), kernel, stride, ceil_mode=True)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, before: int, width: int, kernel: int, stride: int = 1, *, eps: float, by_size: bool = True
    ) -> None:
        super().__init__()
        self.by_size = by_size
        self.conv3d = nn.Conv3d(before, width, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=eps)
        self.size = ((kernel,) * 3, (stride,) * 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv3d(_padded(x, *self.size, self.by_size))))


class Mixed(nn.Module):
    """Four branches side by side, their channels joined."""

    def __init__(self, before: int, widths: tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.b0 = Unit(before, widths[0], 1, eps=eps)
        self.b1a = Unit(before, widths[1], 1, eps=eps)
        self.b1b = Unit(widths[1], widths[2], 3, eps=eps)
        self.b2a = Unit(before, widths[3], 1, eps=eps)
        self.b2b = Unit(widths[3], widths[4], 3, eps=eps)
        self.b3b = Unit(before, widths[5], 1, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pooled(x, (3, 3, 3), (1, 1, 1), by_size=True)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class Logits(nn.Module):
    """The last 1 x 1 x 1 convolution, with a bias and nothing behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)  # type: ignore[no-any-return]


POOLS = {
    "Conv3d_1a_7x7": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the maximum pooling behind a layer."""


class I3d(nn.Module):
    """The network. Names are those of `i3d_pretrained_400.pt`.

    Args:
        eps: of the batch norms.
        by_size: padding as TensorFlow has it, see `_padded`.
    """

    def __init__(self, eps: float, by_size: bool = True) -> None:
        super().__init__()
        self.by_size = by_size
        self.logits = Logits()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, eps=eps, by_size=by_size)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1, eps=eps)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, eps=eps)
        for name, (before, widths) in MIXED.items():
            self.add_module(name, Mixed(before, widths, eps))

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, T, 224, 224) in [-1, 1]
        for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *MIXED):
            x = self.get_submodule(name)(x)
            if name in POOLS:
                kernel, stride = POOLS[name]
                x = _pooled(x, kernel, stride, self.by_size)
        x = F.avg_pool3d(x, (2, 7, 7), 1)  # (B, 1024, T / 8 - 1, 1, 1)
        return self.logits(x).flatten(2).mean(dim=2)  # type: ignore[no-any-return]  # (B, 400)


@dataclass(frozen=True)
class Variant:
    """A protocol's preprocessing and network."""

    crop: Literal["squash", "centre"]
    eps: float
    scripted: bool
    source: str


_PAPER = "arXiv:1705.07750, weights of Google's FVD module"
VARIANTS = {
    "i3d_tats": Variant("squash", 1e-5, False, f"{_PAPER}; TATS, cd-fvd: i3d_pretrained_400.pt"),
    "i3d_mmd": Variant("centre", 1e-5, False, f"{_PAPER}; MM-Diffusion, JavisBench: i3d_pretrained_400.pt"),
    "i3d_sgv": Variant("squash", 1e-3, True, f"{_PAPER}; StyleGAN-V: i3d_torchscript.pt, read as tensors"),
}


_SCRIPT_BRANCHES = {
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}
_SCRIPT_LAYER = re.compile(r"(?:^|\.)((?:conv3d_\d\w|mixed_\d)\w+)\.(.+)$")


def from_script_name(name: str) -> str:
    """A tensor's name in StyleGAN-V's TorchScript file (hassony2's port) to the name in `i3d_pretrained_400.pt`.

    What stands before the layer, a wrapper's name, is left out; a name without a layer stays as it is.
    """
    found = _SCRIPT_LAYER.search(name)
    if found is None:
        return name
    layer, rest = found.groups()
    if layer == "conv3d_0c_1x1":
        return f"logits.{rest}"
    for old, new in _SCRIPT_BRANCHES.items():
        if rest.startswith(f"{old}."):
            rest = f"{new}.{rest.removeprefix(f'{old}.')}"
            break
    return f"{layer.capitalize()}.{rest}".replace(".batch3d.", ".bn.")


class I3dExtractor:
    """I3D with its published weights. Output "logits": float32 (B, 400), before the softmax."""

    code_version = 1
    licence = "TATS MIT, original Apache-2.0; StyleGAN-V's file states none"
    audio = None
    outputs = ("logits",)

    def __init__(self, name: str, network: I3d, weights: tuple[WeightsFile, ...], device: torch.device) -> None:
        self.name = name
        self.weights = weights
        self.source = VARIANTS[name].source
        self.video = VideoRule(
            fps=None,
            frames=None,
            min_frames=SHORTEST_FRAMES[not VARIANTS[name].scripted],
            size_px=SIZE_PX,
            crop=VARIANTS[name].crop,
            filter="bilinear",
        )
        self._network = placed(network, device, torch.channels_last_3d)
        self._device = device

    def network_input(self, frames: Tensor) -> Tensor:
        """One clip's frames, uint8 (T, H, W, 3), as the network sees them: float32 (3, T, 224, 224) in [-1, 1]."""
        return (resized(frames, self.video) * (2 / 255) - 1).transpose(0, 1)

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """As `contract.Extractor.features`; waveform and texts are not looked at."""
        clips = checked_frames(frames, self.video, self.name)
        with exact_float32():

            def run(rows: Tensor) -> Tensor:
                seen = torch.stack([self.network_input(row) for row in rows.to(self._device)])
                return self._network(seen).cpu()  # type: ignore[no-any-return]

            return {"logits": in_batches(run, clips, batch_rows(self._device))}


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> I3dExtractor:
    """I3D from the published file in `folder`. Raises WeightsError."""
    variant = VARIANTS[entry.name]
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = I3d(variant.eps, by_size=not variant.scripted)
    shapes = shapes_of(network)
    layout = Layout(shapes=shapes, forms=STATE_DICT)
    if variant.scripted:
        layout = Layout(shapes=shapes, forms=SCRIPT, rename=from_script_name)
    record = load_network(network, path, layout, published.files[0])
    return I3dExtractor(entry.name, network, (record,), device)
