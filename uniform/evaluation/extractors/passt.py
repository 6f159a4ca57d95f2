"""PaSST-S, a transformer over spectrogram patches with AudioSet's 527 classes: FD_PaSST, IS and KL of av-benchmark.

Source: Koutini et al. (arXiv:2110.05069); published network `passt_s_swa_p16_128_ap476` of the release
v0.0.1-audioset of github.com/kkoutini/PaSST, front end as in hear21passt. Code and weights Apache-2.0.
Input: mono, 32 kHz, cut or zero-padded to exactly 10 s. A short clip that is not padded gives an unrelated embedding.
Output per clip: "logits" (B, 527), before any sigmoid; "embedding" (B, 768).

B clips, S samples, F x T patches (12 x 99 at most), N tokens, D = 768.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.compliance.kaldi import get_mel_banks

from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile, checked_waveform
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import Layout, load_network, shapes_of
from uniform.evaluation.extractors.transformer_blocks import FusedAttention, Mlp

RATE_HZ = 32_000
CLIP_SAMPLES = 320_000
MEL_BINS = 128
_FFT = 1024
_WINDOW = 800
_HOP = 320
_TOP_HZ = 15_000.0
_PATCH = 16
_STRIDE = 10


def log_mel(waveform: Tensor) -> Tensor:
    """Normalised log-mel spectrogram: (B, S) at 32 kHz -> (B, 128, 1 + (S - 1) // 320).

    Pre-emphasis 1 - 0.97 z^-1, symmetric Hann window of 800, FFT 1,024, hop 320, power, 128 Kaldi mel bins over
    0 to 15,000 Hz, (log(x + 1e-5) + 4.5) / 5.
    """
    emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
    window = torch.hann_window(_WINDOW, periodic=False, device=waveform.device)
    spectrum = torch.stft(emphasised, _FFT, _HOP, _WINDOW, window, center=True, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    banks, _ = get_mel_banks(MEL_BINS, _FFT, float(RATE_HZ), 0.0, _TOP_HZ, 100.0, -500.0, 1.0)
    banks = F.pad(banks, (0, 1)).to(waveform.device)  # the bank of the highest frequency is empty
    return ((banks @ power + 1e-5).log() + 4.5) / 5


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = FusedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        x = x + self.attn(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class _PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, _PATCH, _STRIDE)

    def forward(self, mel: Tensor) -> Tensor:  # (B, 1, 128, frames) -> (B, D, F, T)
        patches: Tensor = self.proj(mel)
        return patches


class PasstNetwork(nn.Module):
    """The network under its published names: 159 tensors."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, classes: int = 527) -> None:
        super().__init__()
        rows, columns = (MEL_BINS - _PATCH) // _STRIDE + 1, 99
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, columns))
        self.patch_embed = _PatchEmbed(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        self.head_dist = nn.Linear(width, classes)  # published, used in training alone

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, 128, frames) -> logits (B, 527), embedding (B, 768). Patches beyond the 99th column are left out."""
        patches = self.patch_embed(mel)
        columns = min(patches.shape[-1], self.time_new_pos_embed.shape[-1])
        patches = patches[..., :columns] + self.time_new_pos_embed[..., :columns] + self.freq_new_pos_embed
        lead = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        x = torch.cat([lead.expand(len(mel), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)  # (B, 2 + F T, D)
        for block in self.blocks:
            x = block(x)
        embedding = self.norm(x)[:, :2].mean(dim=1)
        return self.head(embedding), embedding


@dataclass(frozen=True, kw_only=True)
class Passt:
    """The extractor. 10 s are made of every clip, whatever its length."""

    network: PasstNetwork
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    code_version: int = 1
    video: VideoRule | None = None
    audio: AudioRule = AudioRule(  # noqa: RUF009 - frozen
        rate_hz=RATE_HZ, channels="mean", remove_dc=True, length_s=10.0, pad="zeros", min_samples=2
    )
    outputs: tuple[str, ...] = ("logits", "embedding")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`."""
        sound = checked_waveform(waveform, self.audio, self.name)[:, :CLIP_SAMPLES]
        sound = F.pad(sound, (0, CLIP_SAMPLES - sound.shape[1]))
        with exact_float32():
            joined = in_batches(self._run, sound.to(self.device), batch_rows(self.device)).cpu()
        width = self.network.norm.bias.numel()
        logits, embedding = joined[:, :-width].clone(), joined[:, -width:].clone()
        return {"logits": logits, "embedding": embedding}

    def _run(self, sound: Tensor) -> Tensor:
        return torch.cat(self.network(log_mel(sound)[:, None]), dim=1)


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> Passt:
    """The extractor with the published file of `folder`. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = PasstNetwork()
    record = load_network(network, path, Layout(shapes=shapes_of(network)), published.files[0])
    return Passt(
        network=network.to(device),
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
    )
