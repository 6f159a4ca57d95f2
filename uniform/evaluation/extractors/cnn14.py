"""CNN14 of PANNs: 2048 numbers and 527 AudioSet classes for a whole clip; behind FD, KL, IS and KAD.

Source: Kong et al. 2020 (arXiv:1912.10211), audioset_tagging_cnn (2021-07) with torchlibrosa 0.1.0. Published files:
Zenodo 3987831. Licence: code MIT, weights CC BY 4.0.
Two networks: 16 kHz (audioldm_eval, av-benchmark) and 32 kHz (kadtk's usual choice).

B clips, S samples, N frames, M = 64 mel bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, WeightsFile, checked_waveform
from uniform.evaluation.extractors.mel_filters import slaney_filters
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches, placed
from uniform.evaluation.extractors.tensor_files import NUMPY_NAMES, Layout, load_network, shapes_of

MEL_BINS = 64
CLASSES = 527
EMBEDDING = 2048
POWER_FLOOR = 1e-10
SHORTEST_FRAMES = 32
"""Five poolings by two leave nothing of fewer frames."""


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """Waveform to log-mel in dB, as PANNs was trained.

    Power of centred windows (the ends reflected), 64 Slaney filters, 10 log10 of at least 1e-10.
    """

    rate_hz: int
    fft_samples: int
    """Length of the FFT and of the periodic Hann window."""
    hop_samples: int
    min_hz: float = 50.0
    max_hz: float

    def filters(self) -> Tensor:
        """Mel filters, float32 (fft_samples / 2 + 1, 64)."""
        bank = slaney_filters(
            rate_hz=self.rate_hz,
            fft_samples=self.fft_samples,
            mel_bins=MEL_BINS,
            min_hz=self.min_hz,
            max_hz=self.max_hz,
        )
        return torch.from_numpy(bank).float()

    def __call__(self, waveform: Tensor) -> Tensor:
        """float32 (S,) to float32 (N, 64), N = 1 + S / hop."""
        window = torch.hann_window(self.fft_samples, periodic=True, device=waveform.device)
        spectrum = torch.stft(
            waveform,
            self.fft_samples,
            self.hop_samples,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real**2 + spectrum.imag**2  # (F, N)
        mel = power.T @ self.filters().to(waveform.device)
        return 10 * torch.log10(mel.clamp(min=POWER_FLOOR))

    def constants(self) -> dict[str, Tensor]:
        """The tensors of a published file that this front end defines itself: DFT with window, and filters."""
        n = torch.arange(self.fft_samples, dtype=torch.float64)
        k = torch.arange(self.fft_samples // 2 + 1, dtype=torch.float64)
        turns = torch.outer(k, n) % self.fft_samples * (2 * torch.pi / self.fft_samples)
        window = torch.hann_window(self.fft_samples, periodic=True, dtype=torch.float64)
        return {
            "spectrogram_extractor.stft.conv_real.weight": (turns.cos() * window).unsqueeze(1).float(),
            "spectrogram_extractor.stft.conv_imag.weight": (-turns.sin() * window).unsqueeze(1).float(),
            "logmel_extractor.melW": self.filters(),
        }


FRONT_ENDS = {
    "cnn14_16k": FrontEnd(rate_hz=16_000, fft_samples=512, hop_samples=160, max_hz=8_000.0),
    "cnn14_32k": FrontEnd(rate_hz=32_000, fft_samples=1024, hop_samples=320, max_hz=14_000.0),
}


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and ReLU, then a mean over 2 x 2, or none."""

    def __init__(self, before: int, width: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:  # (B, C, N, M)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return x if self.pool == 1 else F.avg_pool2d(x, self.pool)


class Cnn14(nn.Module):
    """The network behind the front end. Names are the published file's."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(MEL_BINS)
        widths = (1, 64, 128, 256, 512, 1024, 2048)
        for i in range(6):
            self.add_module(f"conv_block{i + 1}", ConvBlock(widths[i], widths[i + 1], pool=2 if i < 5 else 1))
        self.fc1 = nn.Linear(EMBEDDING, EMBEDDING)
        self.fc_audioset = nn.Linear(EMBEDDING, CLASSES)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:  # (B, N, 64)
        x = self.bn0(log_mel.transpose(1, 2).unsqueeze(2))  # (B, 64, 1, N): the norm is over mel bins
        x = x.permute(0, 2, 3, 1)  # (B, 1, N, 64)
        for i in range(6):
            x = self.get_submodule(f"conv_block{i + 1}")(x)
        x = x.mean(dim=3)  # (B, 2048, N / 32)
        embedding = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return embedding, self.fc_audioset(embedding)  # (B, 2048), (B, 527) before the sigmoid


class Cnn14Extractor:
    """CNN14 with its published weights. Outputs: "embedding" (B, 2048) after the ReLU, "logits" (B, 527)."""

    code_version = 1
    licence = "code MIT, weights CC BY 4.0"
    video = None
    outputs = ("embedding", "logits")

    def __init__(self, name: str, network: Cnn14, weights: tuple[WeightsFile, ...], device: torch.device) -> None:
        self.name = name
        self.weights = weights
        self.source = f"arXiv:1912.10211; audioset_tagging_cnn; Zenodo 3987831, {weights[0].name}"
        self.front_end = FRONT_ENDS[name]
        self.audio = AudioRule(
            rate_hz=self.front_end.rate_hz,
            channels="mean",
            remove_dc=True,
            min_samples=(SHORTEST_FRAMES - 1) * self.front_end.hop_samples,
        )
        self._network = placed(network, device, torch.channels_last)
        self._device = device

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """As `contract.Extractor.features`; frames and texts are not looked at."""
        clips = checked_waveform(waveform, self.audio, self.name).to(self._device)
        with exact_float32():
            log_mel = torch.stack([self.front_end(clip) for clip in clips])  # (B, N, 64)
            both = in_batches(lambda rows: torch.cat(self._network(rows), 1), log_mel, batch_rows(self._device)).cpu()
        return {"embedding": both[:, :EMBEDDING].clone(), "logits": both[:, EMBEDDING:].clone()}


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> Cnn14Extractor:
    """CNN14 from the published file in `folder`. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = Cnn14()
    layout = Layout(
        shapes=shapes_of(network),
        inside="model",
        constants=FRONT_ENDS[entry.name].constants(),
        inert_names=NUMPY_NAMES,  # the checkpoint holds the state of its sampler beside the weights
    )
    record = load_network(network, path, layout, published.files[0])
    return Cnn14Extractor(entry.name, network, (record,), device)
