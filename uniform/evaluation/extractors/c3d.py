"""C3D on UCF-101: 101 class logits for 16 frames; the network behind the video inception score of tgan2.

Source: Tran et al. 2015 (arXiv:1412.0767), tuned on UCF-101; tgan2 (Saito et al. 2020, arXiv:1811.09245), whose release
v1.0 publishes the weights and the mean cube. Licence: tgan2 MIT; the weights state none.
Input: 16 RGB frames. Resized to 112 x 112 with aligned corners, BGR, minus rows and columns 8 to 120 of the mean cube
of 128 x 171: left of its centre, as in the original.

B clips, T = 16 frames.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import VideoRule, WeightsFile, checked_frames
from uniform.evaluation.extractors.frames import resized
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import NPZ, Layout, load_network, read_tensors, shapes_of

FRAMES = 16
SIZE_PX = 112
CLASSES = 101
MEAN_SHAPE = (3, FRAMES, 128, 171)
MEAN_CORNER = 8
CONVOLUTIONS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
"""Channels in and out."""
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")
"""Layers with a maximum pooling behind them; the first leaves time alone."""


class C3d(nn.Module):
    """The network. Names are the published file's, with "weight" for "W" and "bias" for "b"."""

    def __init__(self) -> None:
        super().__init__()
        for name, (before, width) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(before, width, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, 16, 112, 112), BGR, mean subtracted
        for name in CONVOLUTIONS:
            x = F.relu_(self.get_submodule(name)(x))
            if name in POOLED:
                # An odd last row is kept (ceil mode) and nothing is padded: 7 becomes 4.
                x = F.max_pool3d(x, (1 if name == "conv1a" else 2, 2, 2), ceil_mode=True)
        x = F.relu(self.fc6(x.flatten(1)))  # x was (B, 512, 1, 4, 4)
        return self.fc8(F.relu(self.fc7(x)))  # type: ignore[no-any-return]  # (B, 101), before the softmax


class C3dExtractor:
    """C3D with its published weights. Output "logits": float32 (B, 101), before the softmax."""

    code_version = 1
    licence = "tgan2 MIT; weights state none"
    source = "arXiv:1412.0767; tgan2 v1.0 (arXiv:1811.09245): conv3d_deepnetA_ucf.npz, mean2.npz"
    video = VideoRule(
        fps=None,
        frames=FRAMES,
        min_frames=FRAMES,
        size_px=SIZE_PX,
        crop="squash",
        filter="bilinear",
        align_corners=True,
    )
    audio = None
    outputs = ("logits",)

    def __init__(
        self, name: str, network: C3d, mean: Tensor, weights: tuple[WeightsFile, ...], device: torch.device
    ) -> None:
        self.name = name
        self.weights = weights
        self._network = network.to(device)
        window = slice(MEAN_CORNER, MEAN_CORNER + SIZE_PX)
        self._mean = mean[:, :, window, window].float().to(device)  # (3, 16, 112, 112)
        self._device = device

    def network_input(self, frames: Tensor) -> Tensor:
        """One clip's frames, uint8 (16, H, W, 3), as the network sees them: float32 (3, 16, 112, 112), BGR."""
        bgr = resized(frames.flip(-1).float() - 128, self.video).transpose(0, 1)
        return bgr + (128 - self._mean)

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


def from_stored_name(name: str) -> str:
    """A name in tgan2's npz ("conv1a/W") to the network's ("conv1a.weight")."""
    layer, _, part = name.partition("/")
    return f"{layer}.{ {'W': 'weight', 'b': 'bias'}.get(part, part) }"


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> C3dExtractor:
    """C3D from the two published files in `folder`. Raises WeightsError."""
    published = weights_of(entry)
    network_path, mean_path = find_weights(published, folder)
    with torch.device("meta"):
        network = C3d()
    layout = Layout(shapes=shapes_of(network), forms=NPZ, rename=from_stored_name)
    record = load_network(network, network_path, layout, published.files[0])
    mean_layout = Layout(shapes={"mean": MEAN_SHAPE}, forms=NPZ, leading_one=True)
    mean, mean_record = read_tensors(mean_path, mean_layout, published.files[1])
    return C3dExtractor(entry.name, network, mean["mean"], (record, mean_record), device)
