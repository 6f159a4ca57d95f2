"""Synchformer: how far audio and video lie apart in time, one of 21 offsets from -2 to 2 s; behind DeSync.

Source: Iashin et al. (arXiv:2401.16423); published file `synchformer_state_dict.pth` of MMAudio's release v0.1. MIT.
Input: frames at 25 per second, short side 224 (bicubic), centre crop, in [-1, 1], segments of 16 frames every 8;
mono 16 kHz, segments of 10,240 samples every 5,120. The position table holds exactly 14 segments (4.8 s).
Output per clip: "logits" (B, K, 21) and "offset_s" (B, K), over K blocks of 14 segments:
    synchformer_avb    first and last 14 segments (av-benchmark); clips below 4.8 s are refused
    synchformer_javis  consecutive blocks of 14, the last taken from the end (JavisBench); a clip of 4 s has only 11
                       segments, and its first segments' features are repeated at the end

B clips, S segments, D = 768.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from uniform.errors import InputError
from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import (
    AudioRule,
    VideoRule,
    WeightsFile,
    checked_frames,
    checked_waveform,
)
from uniform.evaluation.extractors.resized_frames import centre_cropped, short_side_resized
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.synchformer_network import SynchformerNetwork
from uniform.evaluation.extractors.tensor_files import Layout, load_network, shapes_of

RATE_HZ = 16_000
FPS = 25.0
SIZE_PX = 224
SEGMENT_FRAMES = 16
SEGMENT_SAMPLES = 10_240
OFFSETS_S = tuple(round(-2 + 0.2 * i, 1) for i in range(21))
_MEL_FRAMES = 66
_MEAN, _STD = -4.2677393, 4.5689974
Blocks = Literal["first and last", "consecutive"]


def log_mel(segments: Tensor) -> Tensor:
    """Normalised log-mel: (G, 10240) at 16 kHz -> (G, 128, 66).

    FFT 1,024, window 400, hop 160, power, 128 HTK mel bins, log(x + 1e-6), filled up with zeros to 66 frames,
    (x + 4.2677393) / 9.1379948.
    """
    window = torch.hann_window(400, device=segments.device)
    spectrum = torch.stft(segments, 1024, 160, 400, window, center=True, return_complex=True)
    banks = melscale_fbanks(513, 0.0, RATE_HZ / 2, 128, RATE_HZ).T.to(segments.device)
    mel = (banks @ spectrum.abs().square() + 1e-6).log()
    mel = F.pad(mel, (0, _MEL_FRAMES - mel.shape[-1]))
    return (mel - _MEAN) / (2 * _STD)


def in_segments(x: Tensor, length: int) -> Tensor:
    """(B, N, ...) -> (B, S, length, ...), half overlapping; what does not fill a segment is left out."""
    return x.unfold(1, length, length // 2).movedim(-1, 2)


def chosen_blocks(features: Tensor, blocks: Blocks, length: int = 14) -> Tensor:
    """Features (B, S, n, D) -> (B, K, 14, n, D); see the module's text for the two rules.

    Raises: InputError where the first rule has fewer than 14 segments.
    """
    count = features.shape[1]
    if blocks == "first and last":
        if count < length:
            raise InputError(
                f"synchformer: {count} segments; its position table holds {length}, that is 4.8 s. "
                f"Leave shorter clips out, or use the extractor synchformer_javis and its metric's name."
            )
        return torch.stack([features[:, :length], features[:, -length:]], dim=1)
    if count < length:
        return features[:, torch.arange(length) % count][:, None]
    starts = [*range(0, count - length + 1, length)]
    if starts[-1] + length < count:
        starts.append(count - length)
    return torch.stack([features[:, start : start + length] for start in starts], dim=1)


@dataclass(frozen=True, kw_only=True)
class Synchformer:
    """The extractor."""

    network: SynchformerNetwork
    device: torch.device
    blocks: Blocks
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    video: VideoRule
    audio: AudioRule
    code_version: int = 1
    outputs: tuple[str, ...] = ("logits", "offset_s")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`."""
        sound = in_segments(checked_waveform(waveform, self.audio, self.name), SEGMENT_SAMPLES)
        pixels = checked_frames(frames, self.video, self.name)
        if len(sound) != len(pixels):
            raise InputError(f"{self.name}: {len(pixels)} clips of frames, {len(sound)} of sound; wanted pairs")
        video = torch.stack([self._video(clip) for clip in pixels])
        audio = torch.stack([self._audio(clip) for clip in sound])
        shared = min(video.shape[1], audio.shape[1])
        vision, hearing = (chosen_blocks(x[:, :shared], self.blocks) for x in (video, audio))
        with exact_float32():
            rows = [
                self.network.offset_logits(v[None], a[None])
                for v, a in zip(vision.flatten(0, 1), hearing.flatten(0, 1), strict=True)
            ]
        logits = torch.unflatten(torch.cat(rows).cpu(), 0, vision.shape[:2])
        return {"logits": logits, "offset_s": torch.tensor(OFFSETS_S)[logits.argmax(-1)]}

    def _video(self, clip: Tensor) -> Tensor:  # (T, H, W, 3) -> (S, 8, D)
        images = centre_cropped(short_side_resized(clip, SIZE_PX), SIZE_PX)
        segments = in_segments(images[None], SEGMENT_FRAMES)[0]  # (S, 16, 3, 224, 224), uint8

        def run(rows: Tensor) -> Tensor:
            return self.network.video_features((rows.to(self.device).transpose(1, 2) / 255 - 0.5) / 0.5)

        with exact_float32():
            return in_batches(run, segments, batch_rows(self.device))

    def _audio(self, segments: Tensor) -> Tensor:  # (S, 10240) -> (S, 6, D)
        with exact_float32():
            mel = log_mel(segments.to(self.device))[:, None]
            return in_batches(self.network.audio_features, mel, batch_rows(self.device))


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> Synchformer:
    """The extractor with the published file of `folder`. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    with torch.device("meta"):
        network = SynchformerNetwork()
    record = load_network(network, path, Layout(shapes=shapes_of(network)), published.files[0])
    blocks: Blocks = "consecutive" if entry.name == "synchformer_javis" else "first and last"
    segments = 1 if blocks == "consecutive" else 14
    return Synchformer(
        network=network.to(device),
        device=device,
        blocks=blocks,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
        video=VideoRule(
            fps=FPS,
            frames=None,
            min_frames=SEGMENT_FRAMES // 2 * (segments + 1),
            size_px=SIZE_PX,
            crop="centre",
            filter="bicubic",
            antialias=True,
        ),
        audio=AudioRule(
            rate_hz=RATE_HZ,
            channels="mean",
            remove_dc=True,
            min_samples=SEGMENT_SAMPLES // 2 * (segments + 1),
        ),
    )
