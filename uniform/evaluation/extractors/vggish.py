"""VGGish: 128 numbers for every 0.96 s of sound; the network behind FAD.

Source: Hershey et al. 2017 (arXiv:1609.09430), Google's AudioSet code for the front end, torchvggish (release v0.1) for
the published file. As in audioldm_eval, av-benchmark and frechet-audio-distance the last ReLU is left out and there is
no PCA. Licence: Apache-2.0 (code and weights).
Input: mono at 16 kHz. Windows of 0.96 s that do not overlap; what is left at the end is dropped, so 4 s give 4.

B clips, S samples, E windows ("examples").
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, WeightsFile, checked_waveform
from uniform.evaluation.extractors.mel_filters import htk_filters
from uniform.evaluation.extractors.running import exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import NUMPY_NAMES, Layout, load_network, shapes_of

RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
MEL_BINS = 64
EXAMPLE_FRAMES = 96
LOG_OFFSET = 0.01
EXAMPLE_ROWS = 4
"""Examples that run together: those of one clip of 4 s."""


class Vggish(nn.Module):
    """The network. `features` and `embeddings` carry the published file's key names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool"):
            if isinstance(width, int):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, examples: Tensor) -> Tensor:  # (N, 96, 64)
        maps = self.features(examples.unsqueeze(1))  # (N, 512, 6, 4)
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # (N, 12288): the published weights count channels last
        return self.embeddings(flat)  # type: ignore[no-any-return]  # (N, 128), before the last ReLU


def log_mel_examples(waveform: Tensor) -> Tensor:
    """Log-mel examples of one clip.

    Magnitudes of windows of 25 ms every 10 ms without padding, 64 HTK filters from 125 to 7500 Hz, log(x + 0.01).

    Args:
        waveform: float32 (S,) at 16 kHz, S >= 15,600.
    Returns: float32 (E, 96, 64).
    """
    frames = waveform.double().unfold(0, WINDOW_SAMPLES, HOP_SAMPLES)  # (N, 400)
    window = torch.hann_window(WINDOW_SAMPLES, periodic=True, dtype=torch.float64, device=waveform.device)
    magnitudes = torch.fft.rfft(frames * window, FFT_SAMPLES).abs()  # (N, 257)
    bank = htk_filters(rate_hz=RATE_HZ, fft_samples=FFT_SAMPLES, mel_bins=MEL_BINS, min_hz=125.0, max_hz=7500.0)
    log_mel = torch.log(magnitudes @ torch.from_numpy(bank).to(waveform.device) + LOG_OFFSET)  # (N, 64)
    count = len(log_mel) // EXAMPLE_FRAMES
    return log_mel[: count * EXAMPLE_FRAMES].reshape(count, EXAMPLE_FRAMES, MEL_BINS).float()


class VggishExtractor:
    """VGGish with its published weights. Output "embedding": float32 (B, E, 128)."""

    code_version = 1
    licence = "Apache-2.0"
    source = "arXiv:1609.09430; torchvggish v0.1, vggish-10086976.pth; last ReLU left out, no PCA"
    video = None
    audio = AudioRule(
        rate_hz=RATE_HZ,
        channels="mean",
        remove_dc=True,
        min_samples=WINDOW_SAMPLES + (EXAMPLE_FRAMES - 1) * HOP_SAMPLES,
    )
    outputs = ("embedding",)

    def __init__(self, name: str, network: Vggish, weights: tuple[WeightsFile, ...], device: torch.device) -> None:
        self.name = name
        self.weights = weights
        self._network = network.to(device)
        self._device = device

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """As `contract.Extractor.features`; frames and texts are not looked at."""
        clips = checked_waveform(waveform, self.audio, self.name).to(self._device)
        with exact_float32():
            examples = torch.stack([log_mel_examples(clip) for clip in clips])  # (B, E, 96, 64)
            embedding = in_batches(self._network, examples.flatten(0, 1), EXAMPLE_ROWS)
            return {"embedding": embedding.reshape(*examples.shape[:2], -1).cpu()}


class Pca(nn.Module):
    """Principal components of one embedding, in 256 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.pca_eigen_vectors = nn.Parameter(torch.empty(128, 128))
        self.pca_means = nn.Parameter(torch.empty(128, 1))

    def forward(self, row: Tensor) -> Tensor:  # (128,)
        components = self.pca_eigen_vectors @ (row[:, None] - self.pca_means)  # (128, 1)
        return torch.round((components[:, 0].clamp(-2, 2) + 2) * (255 / 4))


class VggishPcaExtractor(VggishExtractor):
    """VGGish as YouTube-8M stores it. Output "embedding_pca8": whole numbers from 0 to 255, float32 (B, E, 128).

    The last ReLU stays; then principal components, cut to -2 to 2, in 256 steps.
    """

    source = "arXiv:1609.09430; torchvggish v0.1 with its postprocessor, vggish_pca_params-970ea276.pth"
    outputs = ("embedding_pca8",)

    def __init__(
        self, name: str, network: Vggish, pca: Pca, weights: tuple[WeightsFile, ...], device: torch.device
    ) -> None:
        super().__init__(name, network, weights, device)
        self._pca = pca

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """As `contract.Extractor.features`; frames and texts are not looked at."""
        embedding = super().features(waveform=waveform)["embedding"]
        with exact_float32():
            rows = [self._pca(row) for row in embedding.relu().flatten(0, 1)]
        return {"embedding_pca8": torch.stack(rows).reshape(embedding.shape)}


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> VggishExtractor:
    """VGGish from the published files in `folder`. Raises WeightsError."""
    published = weights_of(entry)
    path, *others = find_weights(published, folder)
    with torch.device("meta"):
        network, pca = Vggish(), Pca()
    record = load_network(network, path, Layout(shapes=shapes_of(network)), published.files[0])
    if not others:
        return VggishExtractor(entry.name, network, (record,), device)
    layout = Layout(
        shapes=shapes_of(pca),
        rename=lambda name: name.removeprefix("pproc."),
        inert_names=NUMPY_NAMES,  # the published file holds NumPy arrays
    )
    pca_record = load_network(pca, others[0], layout, published.files[1])
    return VggishPcaExtractor(entry.name, network, pca, (record, pca_record), device)
