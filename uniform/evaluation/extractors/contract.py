"""What a feature extractor is: how it wants its clips, and what it gives.

B clips of one call, T frames, H x W pixels, S samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from uniform.errors import InputError


@dataclass(frozen=True, kw_only=True)
class VideoRule:
    """How a network wants its frames. Sampling in time is the reader's part, all about pixels is the extractor's."""

    fps: float | None
    """Frames per second that the reader samples; None takes the file's own frames."""
    frames: int | None
    """Consecutive frames per clip; None takes all frames."""
    min_frames: int = 1
    """A clip with fewer cannot be given to the network."""
    size_px: int
    """Height and width that the network sees."""
    crop: Literal["centre", "squash", "pad", "none"]
    """"centre": the short side becomes `size_px`, the middle is cut out; "squash": both sides become `size_px`."""
    filter: Literal["bilinear", "bicubic", "area"]
    antialias: bool = False
    align_corners: bool = False


@dataclass(frozen=True, kw_only=True)
class AudioRule:
    """How a network wants its waveform. The reader applies all of it (`waveforms.prepared`)."""

    rate_hz: int
    channels: Literal["mean", "first"]
    """How several channels become one."""
    remove_dc: bool
    """Subtract the mean of the whole clip, before resampling."""
    length_s: float | None = None
    """Cut to this length; None takes the whole clip."""
    pad: Literal["none", "zeros"] = "none"
    """"zeros": a clip shorter than `length_s` is filled up at its end."""
    at_least_s: float | None = None
    """A shorter clip is filled up with zeros to this length, whatever `pad` says (2 s in audioldm_eval)."""
    min_samples: int = 1
    """A clip with fewer, at `rate_hz`, cannot be given to the network."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weights file that an extractor has read."""

    name: str
    bytes: int
    sha256: str
    known: bool
    """The digest is the published one. False: it is another, or none is published."""


@runtime_checkable
class Extractor(Protocol):
    """A frozen network with its input rule."""

    @property
    def name(self) -> str:
        """As in metric names: "vggish", "cnn14_16k", "i3d_tats"."""
        ...

    @property
    def code_version(self) -> int:
        """Raised whenever the numbers change: part of the key of cached features."""
        ...

    @property
    def licence(self) -> str: ...

    @property
    def source(self) -> str:
        """Publication, reference code and published file."""
        ...

    @property
    def video(self) -> VideoRule | None:
        """None where the network takes no frames."""
        ...

    @property
    def audio(self) -> AudioRule | None:
        """None where the network takes no waveform."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that `features` returns."""
        ...

    @property
    def weights(self) -> tuple[WeightsFile, ...]:
        """The files behind the numbers, with their digests."""
        ...

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """Features of B clips; a clip's numbers do not depend on the clips beside it.

        Args:
            frames: uint8 (B, T, H, W, 3) RGB at the source's own size, already sampled to the video rule.
            waveform: float32 (B, S) at the audio rule's rate, full scale 1.0, already prepared by the audio rule.
            texts: B captions, for the networks that read text.
        Returns: float32 on the CPU, (B, ...) for every name of `outputs`.
        Raises: InputError for another shape, another type, a clip that is too short, or numbers that are not finite.
        """
        ...


def checked_frames(frames: Tensor | None, rule: VideoRule, name: str) -> Tensor:
    """`frames` where they fit `rule`. Raises InputError that says what was found and what was wanted."""
    if frames is None:
        raise InputError(f"{name}: no frames given; this network wants frames. Give frames (B, T, H, W, 3), uint8.")
    if frames.dtype != torch.uint8 or frames.dim() != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"{name}: frames are {frames.dtype} of shape {tuple(frames.shape)}; wanted torch.uint8 (B, T, H, W, 3), RGB"
        )
    count = frames.shape[1]
    if rule.frames is not None and count != rule.frames:
        raise InputError(f"{name}: clips of {count} frames; wanted {rule.frames}. Sample the clips to that count.")
    if count < rule.min_frames:
        raise InputError(f"{name}: clips of {count} frames; wanted {rule.min_frames} or more. Leave such clips out.")
    return frames


def checked_waveform(waveform: Tensor | None, rule: AudioRule, name: str) -> Tensor:
    """`waveform` where it fits `rule`. Raises InputError that says what was found and what was wanted."""
    if waveform is None:
        raise InputError(
            f"{name}: no waveform given; this network wants one. Give float32 (B, S) at {rule.rate_hz} Hz."
        )
    if waveform.dtype != torch.float32 or waveform.dim() != 2 or 0 in waveform.shape:
        raise InputError(
            f"{name}: waveform is {waveform.dtype} of shape {tuple(waveform.shape)}; wanted torch.float32 (B, S), mono"
        )
    if waveform.shape[1] < rule.min_samples:
        raise InputError(
            f"{name}: clips of {waveform.shape[1]} samples at {rule.rate_hz} Hz; wanted {rule.min_samples} or more. "
            f"Leave such clips out."
        )
    if not bool(torch.isfinite(waveform).all()):
        raise InputError(f"{name}: NaN or infinity in the waveform. Leave such clips out.")
    return waveform
