"""What `UniFormPipeline` takes and gives: the inputs of a sample, and the sample in memory."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniform.errors import InputError
from uniform.pair import Pair
from uniform.sampling.provenance import Provenance
from uniform.sampling.render import Rendered, write_sample
from uniform.sampling.request import MAX_NAME_BYTES
from uniform.sampling.results import SUFFIXES
from uniform.spec import Spec
from uniform.tasks import Task

Audio = str | Path | npt.NDArray[np.float32]
"""A file with audio, or a waveform in the model's geometry: float32 (spec.samples,), full scale = 1.0."""
Video = str | Path | npt.NDArray[np.uint8]
"""A file with video, or frames in the model's geometry: uint8 (spec.frames, spec.height_px, spec.width_px, 3), RGB."""


@dataclass(frozen=True, kw_only=True)
class SampleInput:
    """The inputs of one sample of a batch."""

    task: str = Task.T2AV.value
    """t2av, a2v or v2a."""
    text: str | None = None
    """The caption; T2AV needs one, for A2V and V2A it is optional."""
    audio: Audio | None = None
    """A2V: the conditioning modality."""
    video: Video | None = None
    """V2A: the conditioning modality."""
    start_s: float = 0.0
    """Start of the clip in the media file, in seconds; not for arrays."""
    seed: int = 0
    """Seed of the noise."""


@dataclass(frozen=True)
class Sample:
    """One finished sample."""

    video: npt.NDArray[np.uint8]
    """(T, H, W, 3), RGB."""
    audio: npt.NDArray[np.float32]
    """(S,), mono, full scale = 1.0."""
    fps: int
    rate_hz: int
    latents: Pair
    """Normalised latents of both modalities, float32, on the CPU, without a batch axis."""
    seed: int
    notes: tuple[str, ...]
    """What was cut or padded."""
    _spec: Spec = field(repr=False)
    _made_of: Provenance = field(repr=False)

    def save(self, path: str | Path, *, latents: bool = False) -> Path:
        """Write `<path>.mp4`, `.wav`, `.png` and `.json`: the bytes of `uniform sample --name` for the same request.

        Args:
            path: with or without the suffix .mp4. Files of that name are replaced.
            latents: also write `.safetensors` with the latents.
        Returns: the path of the MP4.
        Raises: InputError where the name has another suffix, is too long, or the folder cannot be written to.
        """
        target = Path(path)
        if target.suffix in SUFFIXES and target.suffix != ".mp4":
            raise InputError(f"{target}: a sample is written as .mp4 with .wav, .png and .json beside it; end in .mp4")
        name = target.stem if target.suffix == ".mp4" else target.name
        if not name or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
            raise InputError(f"{target}: '{name[:40]}' is not a name for a sample; use a plain, shorter file name")
        rendered = Rendered(
            self.video, self.audio, self._made_of.named(name).metadata(self.notes), self.latents if latents else None
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return write_sample(target.parent, name, rendered, self._spec)
        except OSError as error:
            raise InputError(
                f"{target}: the sample cannot be written ({error.strerror or error}). Free some disk space or choose "
                f"another folder; the sample is still in memory."
            ) from error
