"""Meta's PE-AV: audio, video and text in one space; the alternative to ImageBind without a non-commercial licence.

Source: Vyas et al. (arXiv:2512.19687); `facebook/pe-av-base` of the hub, through transformers' PeAudioVideoModel, whose
image part is timm's. Code and weights Apache-2.0. Needs the extra `evaluate-pe`.
Input: frames squashed to the size that `processor_config.json` names (336 px; bilinear, antialiased), all of them or
the evenly spaced number it names; mono, 48 kHz, reflected at the end to whole steps of 1,920 samples.
Output per clip, E as in the folder: "video_embedding" (B, E), "audio_embedding" (B, E); where texts are given also
"text_embedding" (B, E) and, with both other inputs, "audio_video_embedding" (B, E). The score is a cosine.

B clips, T frames, S samples.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.errors import ConfigError, InputError, WeightsError
from uniform.evaluation.extractors.catalogue import ExtractorEntry, find_weights, weights_of
from uniform.evaluation.extractors.contract import (
    AudioRule,
    VideoRule,
    WeightsFile,
    checked_frames,
    checked_waveform,
)
from uniform.evaluation.extractors.hub_folder import load_weights, read_settings, tokens
from uniform.evaluation.extractors.running import exact_float32

RATE_HZ = 48_000
STEP_SAMPLES = 1_920
_MOST_TOKENS = 512
_TIMM_NAME = re.compile(r"vit_pe_[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """What `processor_config.json` says of frames."""

    size_px: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int | None
    """Evenly spaced frames that are looked at; None looks at all."""


@dataclass(frozen=True, kw_only=True)
class PeAudioVideo:
    """The extractor."""

    model: Any
    settings: FrameSettings
    folder: Path
    device: torch.device
    name: str
    licence: str
    source: str
    weights: tuple[WeightsFile, ...]
    video: VideoRule
    code_version: int = 1
    audio: AudioRule = field(
        default=AudioRule(rate_hz=RATE_HZ, channels="mean", remove_dc=False, min_samples=STEP_SAMPLES)
    )
    outputs: tuple[str, ...] = ("video_embedding", "audio_embedding")

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """See `contract.Extractor.features`. An input may be None: its features are left out."""
        if frames is None and waveform is None and texts is None:
            raise InputError(f"{self.name}: no frames, no waveform, no texts given; wanted at least one")
        pixels = None if frames is None else checked_frames(frames, self.video, self.name)
        sound = None if waveform is None else checked_waveform(waveform, self.audio, self.name)
        made: dict[str, Tensor] = {}
        with exact_float32():
            if pixels is not None:
                made["video_embedding"] = torch.cat([self._video(self._images(clip)) for clip in pixels])
            if sound is not None:
                made["audio_embedding"] = torch.cat([self.model.get_audio_embeds(self._steps(clip)) for clip in sound])
            if texts is not None:
                rows = [tokens(self.folder, [text], _MOST_TOKENS) for text in texts]
                embed = self.model.get_text_audio_video_embeds
                made["text_embedding"] = torch.cat(
                    [embed(**{k: v.to(self.device) for k, v in r.items()}) for r in rows]
                )
                if pixels is not None and sound is not None:
                    pairs = zip(sound, pixels, strict=True)
                    made["audio_video_embedding"] = torch.cat([self._joint(clip, images) for clip, images in pairs])
        return {name: value.cpu() for name, value in made.items()}

    def _video(self, images: Tensor) -> Tensor:  # (1, T, 3, h, w) -> (1, E)
        part = self.model.video_model
        embedding: Tensor = part.video_head(part.video_encoder(pixel_values_videos=images).pooler_output)
        return embedding

    def _joint(self, clip: Tensor, pixels: Tensor) -> Tensor:
        made = self.model.get_audio_video_embeds(self._steps(clip), self._images(pixels))
        embedding: Tensor = made.audio_video_embeds
        return embedding

    def _steps(self, clip: Tensor) -> Tensor:  # (S,) -> (1, 1, S')
        missing = -len(clip) % STEP_SAMPLES
        return F.pad(clip[None, None], (0, missing), mode="reflect").to(self.device)

    def _images(self, clip: Tensor) -> Tensor:  # uint8 (T, H, W, 3) -> (1, T, 3, h, w)
        wanted = self.settings.frames
        if wanted is not None:
            clip = clip[[int(i * (len(clip) - 1) / max(wanted - 1, 1)) for i in range(wanted)]]
        images = F.interpolate(
            clip.cpu().permute(0, 3, 1, 2), self.settings.size_px, mode="bilinear", antialias=True, align_corners=False
        ).to(self.device)
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.settings.mean, self.settings.std)
        )
        return ((images.float() / 255 - mean) / std)[None]


def frame_settings(path: Path) -> FrameSettings:
    """Size, normalisation and number of frames from `processor_config.json`. Raises WeightsError."""
    found = read_settings(path).get("video_processor")
    try:
        assert isinstance(found, dict)
        size = (int(found["size"]["height"]), int(found["size"]["width"]))
        mean, std = (tuple(float(x) for x in found[key]) for key in ("image_mean", "image_std"))
        frames = int(found["num_frames"]) if found.get("do_sample_frames") and found.get("num_frames") else None
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: says nothing usable of frames ({error!r}). Fetch the folder again.") from error
    if not all(1 <= side <= 1024 for side in size) or len(mean) != 3 or len(std) != 3 or 0 in std:
        raise WeightsError(f"{path}: frames of {size} px, mean {mean}, std {std}. Fetch the folder again.")
    return FrameSettings(size_px=size, mean=mean, std=std, frames=frames)


def load(entry: ExtractorEntry, folder: Path, device: torch.device) -> PeAudioVideo:
    """The extractor from the published folder, strictly. Raises WeightsError; ConfigError where timm is missing."""
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

    published = weights_of(entry)
    paths = {path.name: path for path in find_weights(published, folder)}
    described = read_settings(paths["config.json"])
    _refuse_other_image_part(described, paths["config.json"])
    try:
        model: Any = PeAudioVideoModel(PeAudioVideoConfig.from_dict(described))
    except ImportError as error:
        raise ConfigError(f'{entry.name} needs timm. Run: pip install "uniform-toolkit[evaluate-pe]"') from error
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"{paths['config.json']}: describes no PE-AV model ({error}). Fetch it again.") from error
    file = next(file for file in published.files if file.name == "model.safetensors")
    record = load_weights(model, paths["model.safetensors"], file)
    settings = frame_settings(paths["processor_config.json"])
    return PeAudioVideo(
        model=model.to(device),
        settings=settings,
        folder=paths["config.json"].parent,
        device=device,
        name=entry.name,
        licence=published.terms,
        source=published.publisher,
        weights=(record,),
        video=VideoRule(
            fps=None,
            frames=None,
            size_px=settings.size_px[0],
            crop="squash",
            filter="bilinear",
            antialias=True,
        ),
    )


def _refuse_other_image_part(described: Mapping[str, Any], path: Path) -> None:
    """timm builds its network from a name, and fetches where the name is an address: only its PE networks are taken."""
    place: Any = described
    for key in ("audio_video_config", "video_config", "vision_config"):
        place = place.get(key) if isinstance(place, Mapping) else None
    name = place.get("architecture") if isinstance(place, Mapping) else None
    if name is not None and not (isinstance(name, str) and _TIMM_NAME.fullmatch(name)):
        raise WeightsError(f"{path}: image network '{str(name)[:80]}'; wanted one of timm's vit_pe_*. Fetch it again.")
