"""ImageBind: audio, images and text in one space; behind IB-score, JavisScore and AVHScore.

Source: Girdhar et al. (arXiv:2305.05665); published file `imagebind_huge.pth`. Weights CC BY-NC-SA 4.0: non-commercial.
Input: frames, short side 224 (bicubic), CLIP's mean and std; mono 16 kHz, each window's mean removed, Kaldi
filter bank of 128 bins x 204 frames, filled up with zeros, (x + 4.268) / 9.138; text as CLIP's tokens.
Output per clip, E = 1024:
    imagebind_avb    (av-benchmark) "clip_embedding" (B, E): frames at 0.5 per second, every two neighbours a clip,
                     three crops, mean of all; "audio_embedding" (B, E): mean of three windows of 2 s over the clip
    imagebind_javis  (JavisBench) "frame_embeddings" (B, T, E): every frame an image, centre crop;
                     "window_embeddings" (B, W, E): windows of 0.5 s without overlap; "whole_audio_embedding" (B, E)
Both give "text_embedding" (B, E) where texts are given; that needs CLIP's vocabulary in the folder.

B clips, T frames, S samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance.kaldi import fbank

from uniform.errors import InputError
from uniform.evaluation.extractors.catalogue import ExtractorEntry, evaluation_weights, find_weights, weights_of
from uniform.evaluation.extractors.clip_tokens import ClipTokens
from uniform.evaluation.extractors.contract import (
    AudioRule,
    VideoRule,
    WeightsFile,
    checked_frames,
    checked_waveform,
)
from uniform.evaluation.extractors.imagebind_network import (
    MEL_BINS,
    MEL_FRAMES,
    ImageBindNetwork,
    ImageBindSize,
    causal_mask,
    is_of_other_modality,
    other_shapes,
)
from uniform.evaluation.extractors.resized_frames import (
    CLIP_MEAN,
    CLIP_STD,
    centre_cropped,
    short_side_resized,
    three_crops,
)
from uniform.evaluation.extractors.running import batch_rows, exact_float32, in_batches
from uniform.evaluation.extractors.tensor_files import Layout, load_network, shapes_of

JAVIS = "imagebind_javis"
OUTPUTS = {
    "imagebind_avb": ("clip_embedding", "audio_embedding"),
    JAVIS: ("frame_embeddings", "window_embeddings", "whole_audio_embedding"),
}
RATE_HZ = 16_000
SIZE_PX = 224
SHORT_WINDOW_SAMPLES = RATE_HZ // 2


def normalised(images: Tensor) -> Tensor:
    """uint8 (N, 3, h, w) -> float32 with CLIP's mean and std."""
    mean, std = (torch.tensor(x, device=images.device)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    return (images.float() / 255 - mean) / std


def log_mel(windows: Tensor) -> Tensor:
    """Normalised log-mel: (N, samples) at 16 kHz -> (N, 128, 204); filled up with zeros behind the filter bank."""
    made = []
    for window in windows:
        bank = fbank(
            (window - window.mean())[None],
            htk_compat=True,
            sample_frequency=RATE_HZ,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=MEL_BINS,
            dither=0.0,
            frame_length=25,
            frame_shift=10,
        ).T[:, :MEL_FRAMES]
        made.append(F.pad(bank, (0, MEL_FRAMES - bank.shape[1])))
    return (torch.stack(made) + 4.268) / 9.138


def windows_of(waveform: Tensor, count: int) -> list[Tensor]:
    """`count` windows of 2 s, spread evenly from the start to the end: (B, S) -> each (B, at most 32000).

    Times are the fractions that pytorchvideo's sampler makes of the duration in float64, as ImageBind's own code.
    """
    last_s = Fraction(max(waveform.shape[1] / RATE_HZ - 2.0, 0.0))
    starts_s = [last_s * i / (count - 1) for i in range(count)]
    return [waveform[:, int(start * RATE_HZ) : int((start + 2) * RATE_HZ)] for start in starts_s]


@dataclass(frozen=True, kw_only=True)
class ImageBind:
    """The extractor."""

    network: ImageBindNetwork
    device: torch.device
    folder: Path
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    video: VideoRule
    outputs: tuple[str, ...]
    code_version: int = 1
    audio: AudioRule = field(
        default=AudioRule(rate_hz=RATE_HZ, channels="mean", remove_dc=True, min_samples=SHORT_WINDOW_SAMPLES)
    )

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`. An input may be None: its features are left out."""
        if frames is None and waveform is None and texts is None:
            raise InputError(f"{self.name}: no frames, no waveform, no texts given; wanted at least one")
        made: dict[str, Tensor] = {}
        with exact_float32():
            if frames is not None:
                pixels = checked_frames(frames, self.video, self.name)
                encode = self._frames if self.name == JAVIS else self._clip
                made[self.outputs[0]] = torch.stack([encode(clip) for clip in pixels])
            if waveform is not None:
                sound = checked_waveform(waveform, self.audio, self.name)
                if self.name == JAVIS:
                    short = sound.unfold(1, SHORT_WINDOW_SAMPLES, SHORT_WINDOW_SAMPLES)  # (B, W, 8000)
                    made["window_embeddings"] = torch.stack([self._sound(clip) for clip in short])
                made[self.outputs[-1]] = torch.stack([self._sound(window) for window in windows_of(sound, 3)]).mean(0)
            if texts is not None:
                made["text_embedding"] = self._texts(texts)
        return {name: value.cpu() for name, value in made.items()}

    def _run(self, encode: str, rows: Tensor) -> Tensor:
        run = getattr(self.network, encode)
        return in_batches(lambda batch: run(batch.to(self.device)), rows, batch_rows(self.device))

    def _frames(self, clip: Tensor) -> Tensor:  # (T, H, W, 3) -> (T, E)
        return self._run("vision", normalised(centre_cropped(short_side_resized(clip, SIZE_PX), SIZE_PX)))

    def _clip(self, clip: Tensor) -> Tensor:  # (T, H, W, 3) -> (E,)
        crops = [normalised(crop) for crop in three_crops(short_side_resized(clip, SIZE_PX), SIZE_PX)]
        pairs = [torch.stack([crop[:-1], crop[1:]], dim=2) for crop in crops]  # each (T - 1, 3, 2, 224, 224)
        return self._run("vision", torch.cat(pairs)).mean(dim=0)

    def _sound(self, windows: Tensor) -> Tensor:  # (N, samples) -> (N, E)
        return self._run("audio", log_mel(windows)[:, None])

    def _texts(self, texts: Sequence[str]) -> Tensor:  # -> (B, E)
        (path,) = find_weights(evaluation_weights()["clip_vocabulary"], self.folder)
        return self._run("text", ClipTokens.from_file(path).ids(texts))


def load(entry: ExtractorEntry, folder: Path, device: torch.device, size: ImageBindSize | None = None) -> ImageBind:
    """The extractor with the file of `folder`, of the published sizes or of `size`. Raises WeightsError."""
    published = weights_of(entry)
    (path,) = find_weights(published, folder)
    size = size or ImageBindSize()
    with torch.device("meta"):
        network = ImageBindNetwork(size)
    layout = Layout(
        shapes=shapes_of(network),
        constants={"modality_preprocessors.text.mask": causal_mask()},
        unused=other_shapes(size.embedding),
        optional=is_of_other_modality,
    )
    record = load_network(network, path, layout, published.files[0])
    javis = entry.name == JAVIS
    return ImageBind(
        network=network.to(device),
        device=device,
        folder=folder,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
        video=VideoRule(
            fps=None if javis else 0.5,
            frames=None,
            min_frames=1 if javis else 2,
            size_px=SIZE_PX,
            crop="centre" if javis else "none",
            filter="bicubic",
            antialias=True,
        ),
        outputs=OUTPUTS[entry.name],
    )
