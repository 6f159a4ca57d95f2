"""CLAP: audio and text in one space; behind the CLAP score of JavisBench.

Source: Wu et al. (arXiv:2211.06687); `laion/clap-htsat-unfused` of the hub, through transformers' ClapModel and
ClapFeatureExtractor. Apache-2.0.
Input: mono, 48 kHz, the first 10 s (the reference cuts longer clips at random); shorter clips are repeated as often as
they fit and filled up with zeros. Texts as the folder's tokenizer reads them.
Output per clip: "audio_embedding" (B, 512), and "text_embedding" (B, 512) where texts are given; both of length 1.

B clips, S samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.errors import InputError, WeightsError
from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile, checked_waveform
from uniform.evaluation.extractors.hub_folder import load_weights, read_settings, tokens
from uniform.evaluation.extractors.running import exact_float32

RATE_HZ = 48_000
CLIP_S = 10
_MOST_TOKENS = 77
_FRONT_END: dict[str, Any] = {
    "feature_size": 64,
    "sampling_rate": RATE_HZ,
    "hop_length": 480,
    "max_length_s": CLIP_S,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "padding": "repeatpad",
    "truncation": "rand_trunc",
}
"""What `preprocessor_config.json` of the published folder must say."""


@dataclass(frozen=True, kw_only=True)
class Clap:
    """The extractor."""

    model: Any
    front_end: Any
    folder: Path
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    code_version: int = 1
    video: VideoRule | None = None
    audio: AudioRule = field(
        default=AudioRule(rate_hz=RATE_HZ, channels="mean", remove_dc=False, length_s=float(CLIP_S), min_samples=480)
    )
    outputs: tuple[str, ...] = ("audio_embedding", "text_embedding")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`. Waveform or texts may be None: its features are left out."""
        if waveform is None and texts is None:
            raise InputError(f"{self.name}: neither a waveform nor texts given; wanted one or both")
        made: dict[str, Tensor] = {}
        if waveform is not None:
            sound = checked_waveform(waveform, self.audio, self.name)
            made["audio_embedding"] = torch.cat([self.audio_embedding(self.log_mel(clip)) for clip in sound])
        if texts is not None:
            rows = [tokens(self.folder, [text], _MOST_TOKENS) for text in texts]
            made["text_embedding"] = torch.cat([self.text_embedding(**row) for row in rows])
        return made

    def log_mel(self, clip: Tensor) -> Tensor:
        """One clip (S,) at 48 kHz -> (1, 1, 1001, 64), log-mel in dB."""
        cut = clip[: CLIP_S * RATE_HZ].cpu().numpy()
        made = self.front_end([cut], sampling_rate=RATE_HZ, return_tensors="pt")
        features: Tensor = made["input_features"].float()
        return features

    def audio_embedding(self, log_mel: Tensor) -> Tensor:
        """(B, 1, 1001, 64) -> (B, 512), length 1."""
        with exact_float32():
            hidden = self.model.audio_model(input_features=log_mel.to(self.device)).pooler_output
            return F.normalize(self.model.audio_projection(hidden), dim=-1).cpu()

    def text_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token numbers and mask (B, N) -> (B, 512), length 1."""
        with exact_float32():
            hidden = self.model.text_model(
                input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device)
            ).pooler_output
            return F.normalize(self.model.text_projection(hidden), dim=-1).cpu()


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> Clap:
    """The extractor from the published folder: settings, front end, weights, strictly. Raises WeightsError."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    front_end_class: Any = ClapFeatureExtractor
    published = weights_of(entry)
    paths = {path.name: path for path in find_weights(published, folder)}
    settings = read_settings(paths["config.json"])
    front_end = read_settings(paths["preprocessor_config.json"])
    other = {key: front_end.get(key) for key, value in _FRONT_END.items() if front_end.get(key) != value}
    if other:
        wanted = {key: _FRONT_END[key] for key in other}
        raise WeightsError(
            f"{paths['preprocessor_config.json']}: found {other}, wanted {wanted}. "
            f"Give the folder laion/clap-htsat-unfused: the front end is a part of the metric."
        )
    try:
        model: Any = ClapModel(ClapConfig.from_dict(settings))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"{paths['config.json']}: describes no CLAP model ({error}). Fetch it again.") from error
    file = next(file for file in published.files if file.name == "model.safetensors")
    record = load_weights(model, paths["model.safetensors"], file)
    return Clap(
        model=model.to(device),
        front_end=front_end_class(**_FRONT_END),
        folder=paths["config.json"].parent,
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
    )
