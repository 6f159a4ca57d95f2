"""YAMNet, AudioSet's 521 classes from 0.975 s of audio: the audio part of the offline tier. Not FAD, not FD.

Source: Plakal and Ellis, YAMNet (tensorflow/models, research/audioset/yamnet), a MobileNet v1; the published
TensorFlow Lite file `yamnet.tflite`, which comes with this package. Apache-2.0. Its weights are rounded to 8 bits and
its batch norms are folded; here they are read as tensors and all arithmetic is float32.
Input: mono, 16 kHz, no gain rule, windows of 15,600 samples without overlap; what does not fill a window is left out.
Output per clip: "embedding" (B, W, 1024), the mean before the classes; "logits" (B, W, 521), before the sigmoid.

B clips, S samples, W windows, R rows (windows).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile, checked_waveform
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import file_record, shapes_of
from uniform.evaluation.extractors.tflite_tensors import read_tflite

RATE_HZ = 16_000
WINDOW_SAMPLES = 15_600
_WINDOW, _HOP, _FFT = 400, 160, 512
_BINS = _FFT // 2 + 1
_BLOCKS = (  # stride of the depthwise convolution, channels behind the block
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (2, 1024),
    (1, 1024),
)


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around (R, C, H, W) so that a convolution divides both sides by its stride; the odd one goes behind."""
    pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[-1], x.shape[-2])]
    return F.pad(x, [amount for pad in pads for amount in (pad // 2, pad - pad // 2)])


class _Conv(nn.Module):
    """3 x 3 or 1 x 1 convolution with bias and ReLU."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(before, after, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(_same(x, self.kernel, self.stride)))


class YamnetNetwork(nn.Module):
    """Window, mel filters and network as the file holds them."""

    window: Tensor
    mel: Tensor
    floor: Tensor

    def __init__(self, classes: int = 521) -> None:
        super().__init__()
        self.register_buffer("window", torch.zeros(_WINDOW))
        self.register_buffer("mel", torch.zeros(64, _BINS))
        self.register_buffer("floor", torch.zeros(64))
        layers: list[nn.Module] = [_Conv(1, 32, 3, stride=2)]
        before = 32
        for stride, after in _BLOCKS:
            layers += [_Conv(before, before, 3, stride, groups=before), _Conv(before, after, 1)]
            before = after
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(before, classes)

    def log_mel(self, windows: Tensor) -> Tensor:
        """(R, 15600) -> (R, 1, 96, 64): magnitude, mel filters, logarithm of the sum with a floor."""
        spectrum = torch.fft.rfft(windows.unfold(1, _WINDOW, _HOP) * self.window, _FFT).abs()  # (R, 96, 257)
        return torch.log(spectrum @ self.mel.T + self.floor)[:, None]

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 15600) -> embedding (R, 1024), logits (R, 521)."""
        embedding = self.layers(self.log_mel(windows)).mean(dim=(2, 3))
        return embedding, self.dense(embedding)


def state_of(tensors: Sequence[tuple[str, Tensor]], network: YamnetNetwork) -> dict[str, Tensor]:
    """The file's tensors under the names of `network`."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors:
        first = name.split(";")[0]
        where = first.removeprefix("yamnet_frames/").split("/")
        if where[0] == "tf_op_layer_Mul_3":
            state["window"] = tensor
        elif where[0] == "tf_op_layer_MatMul":
            state["mel"] = tensor
        elif where[0] == "tf_op_layer_AddV2_3":
            state["floor"] = tensor
        elif where[0] == "dense":
            state["dense.weight"] = tensor
        elif tensor.shape == network.dense.bias.shape:
            state["dense.bias"] = tensor
        elif where[0].startswith("layer"):
            number = int(where[0].removeprefix("layer"))
            place = 0 if number == 1 else 2 * number - 3 + (where[1] == "pointwise_conv")
            order = (3, 0, 1, 2) if where[1] == "depthwise_conv" else (0, 3, 1, 2)
            kind = "weight" if tensor.dim() == 4 else "bias"
            state[f"layers.{place}.conv.{kind}"] = tensor.permute(order) if kind == "weight" else tensor
    return {name: tensor.contiguous() for name, tensor in state.items()}


@dataclass(frozen=True, kw_only=True)
class Yamnet:
    """The extractor."""

    network: YamnetNetwork
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    code_version: int = 1
    video: VideoRule | None = None
    audio: AudioRule = field(
        default=AudioRule(rate_hz=RATE_HZ, channels="mean", remove_dc=False, min_samples=WINDOW_SAMPLES)
    )
    outputs: tuple[str, ...] = ("embedding", "logits")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`."""
        sound = checked_waveform(waveform, self.audio, self.name)
        windows = sound.unfold(1, WINDOW_SAMPLES, WINDOW_SAMPLES)  # (B, W, 15600)
        with exact_float32():
            rows = windows.flatten(0, 1).to(self.device)
            joined = in_batches(lambda x: torch.cat(self.network(x), 1), rows, batch_rows(self.device)).cpu()
        joined = torch.unflatten(joined, 0, windows.shape[:2])
        width = self.network.dense.in_features
        return {"embedding": joined[..., :width].clone(), "logits": joined[..., width:].clone()}


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> Yamnet:
    """The extractor with `yamnet.tflite` of `folder`, or the one of this package. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    record = file_record(path, published.files[0])
    network = YamnetNetwork()
    state, wanted = state_of(read_tflite(path), network), shapes_of(network)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong or not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise WeightsError(
            f"{path}: not YAMNet's tensors: missing, surplus or of another shape: {', '.join(wrong) or 'none'}, "
            f"or numbers that are not finite. Give the published yamnet.tflite."
        )
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return Yamnet(
        network=network.to(device),
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
    )
