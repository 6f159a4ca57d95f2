"""`UniFormPipeline`: a trained model with its codecs, called from Python."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniform.api.sample import Audio, Sample, SampleInput, Video
from uniform.errors import InputError
from uniform.media.sandbox import MediaSandbox
from uniform.sampling.conditions import ConditionReader
from uniform.sampling.open import open_sampler, sample_config
from uniform.sampling.request import Request, milliseconds, task_by_name
from uniform.sampling.sampler import Progress, SampleConfig, Sampler
from uniform.spec import Spec
from uniform.tasks import Task

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class UniFormPipeline:
    """Audible video from text, video from audio, audio from video.

        pipeline = UniFormPipeline.from_pretrained("run")
        sample = pipeline(text="rain on a tin roof", seed=7)
        sample.save("rain.mp4")

    The same request, seed, batch size and machine give the same bytes as `uniform sample`.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        ema: bool = True,
        codecs: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
        revision: str | None = None,
    ) -> "UniFormPipeline":
        """Load a model and open the codecs that made its training latents.

        Args:
            checkpoint: run directory, checkpoint folder, exported .safetensors, exported folder in the layout of
                diffusers, or hub id owner/name.
            device: of the network: "auto", "cpu", "cuda" or "mps". Codecs have their own option `device`.
            dtype: of the network: torch.float32, torch.bfloat16 (autocast), or "auto" (bfloat16 on CUDA).
            ema: averaged weights of a run; else the raw ones.
            codecs: options of the codecs by kind, for instance {"video": {"weights": "FOLDER"}}.
            revision: branch, tag or commit of a hub id.
        Raises: CheckpointError, InputError, WeightsError, SpecMismatchError.
        """
        if isinstance(dtype, torch.dtype):
            if dtype not in PRECISIONS:
                raise InputError(f"dtype is {dtype}; wanted torch.float32, torch.bfloat16 or 'auto'")
            dtype = PRECISIONS[dtype]
        return cls(
            open_sampler(checkpoint, ema=ema, device=str(device), precision=dtype, codec=codecs, revision=revision)
        )

    @property
    def spec(self) -> Spec:
        """Geometry of the clips that the model makes and takes."""
        return self.sampler.codecs.spec

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.sampler.model.parameters()).device

    def to(self, device: str | torch.device) -> "UniFormPipeline":
        """Move the network to a device; the codecs stay where they were opened. Returns: this pipeline."""
        self.sampler.model.to(device)
        return self

    def settings(
        self,
        *,
        solver: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        video_guidance: float | None = None,
        audio_guidance: float | None = None,
        conditioning_guidance: float | None = None,
        batch_clips: int = 4,
        keep_latents: bool = False,
    ) -> SampleConfig:
        """Settings of the sampler; None takes the model's default. Raises: InputError for an invalid value.

        Args:
            solver: "ancestral", "ddim" or "dpm++"; "euler" or "heun" for flow models.
            steps: of the solver.
            guidance: scale of the text; 1 is off. `video_guidance` and `audio_guidance` replace it in one modality.
            conditioning_guidance: scale of the conditioning modality of A2V and V2A; 1 is off.
            batch_clips: samples per call of the network; another size changes samples by rounding only.
            keep_latents: `write` also writes latents.
        """
        return sample_config(
            self.sampler,
            solver,
            steps,
            cfg=guidance,
            cfg_video=video_guidance,
            cfg_audio=audio_guidance,
            cfg_given=conditioning_guidance,
            batch_clips=batch_clips,
            keep_latents=keep_latents,
        )

    def __call__(
        self,
        task: str = Task.T2AV.value,
        *,
        text: str | None = None,
        audio: Audio | None = None,
        video: Video | None = None,
        start_s: float = 0.0,
        seed: int = 0,
        generator: torch.Generator | None = None,
        solver: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        video_guidance: float | None = None,
        audio_guidance: float | None = None,
        conditioning_guidance: float | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Sample:
        """Make one sample.

        Args:
            task: "t2av" (needs `text`), "a2v" (needs `audio`) or "v2a" (needs `video`).
            text: the caption.
            audio: a file, opened in the media sandbox and converted; or a waveform in the model's geometry.
            video: a file, opened in the media sandbox and converted; or frames in the model's geometry.
            start_s: start of the clip in the media file, in seconds.
            seed: of the noise.
            generator: draws the seed instead; the same state of the generator gives the same sample.
            callback: called after each step of the solver; it may raise to stop.
        The other arguments are those of `settings`.
        Raises: InputError that says what to change.
        """
        one = SampleInput(task=task, text=text, audio=audio, video=video, start_s=start_s, seed=seed)
        config = self.settings(
            solver=solver,
            steps=steps,
            guidance=guidance,
            video_guidance=video_guidance,
            audio_guidance=audio_guidance,
            conditioning_guidance=conditioning_guidance,
        )
        return self.batch([one], config, generator=generator, callback=callback)[0]

    def batch(
        self,
        inputs: Sequence[SampleInput],
        config: SampleConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> list[Sample]:
        """Make many samples, `config.batch_clips` per call of the network; tasks may be mixed.

        Args:
            config: from `settings`; None takes the model's defaults.
            generator: draws the seed of each sample, in order; every `seed` must then be 0.
            callback: called after each step of the solver.
        Raises: InputError that names the sample by its number, before any sample is made.
        """
        seeds = _seeds(inputs, generator)
        requests = [_request(number, one, seed) for number, (one, seed) in enumerate(zip(inputs, seeds, strict=True))]
        chosen = config or self.settings()
        self.sampler.check([request for request, _ in requests], chosen)
        with MediaSandbox() as sandbox:
            reader = ConditionReader(self.sampler.codecs, sandbox)
            conditions = [reader.read(request, array) for request, array in requests]
        made = self.sampler.make(conditions, chosen, callback or (lambda progress: None))
        spec, samples = self.spec, []
        for condition, (one, made_of) in zip(conditions, made, strict=True):
            assert one.latents is not None, "make keeps latents"
            samples.append(
                Sample(
                    one.frames,
                    one.waveform,
                    spec.fps,
                    spec.rate_hz,
                    one.latents,
                    condition.request.seed,
                    condition.notes,
                    spec,
                    made_of,
                )
            )
        return samples

    def write(
        self,
        requests: Sequence[Request],
        folder: str | Path,
        config: SampleConfig | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> list[Path]:
        """Write samples into a folder as `uniform sample` does: finished samples are kept, so a stopped run resumes.

        Returns: the MP4 files, in the order of the requests.
        Raises: InputError; see `Sampler.run`.
        """
        return self.sampler.run(requests, Path(folder), config or self.settings(), callback or (lambda progress: None))


def _seeds(inputs: Sequence[SampleInput], generator: torch.Generator | None) -> list[int]:
    if not inputs:
        raise InputError("there are no inputs; give one SampleInput for each sample")
    if generator is None:
        return [one.seed for one in inputs]
    if any(one.seed for one in inputs):
        raise InputError("seed and generator exclude each other; give one of them")
    return [int(torch.randint(2**62, (), generator=generator, device=generator.device)) for _ in inputs]


def _request(number: int, one: SampleInput, seed: int) -> tuple[Request, Any]:
    """The request of one input, and its array where the conditioning modality is one. Raises: InputError."""
    task = task_by_name(one.task)
    name = f"sample-{number:03d}"
    if one.text is not None and not isinstance(one.text, str):
        raise InputError(f"{name}: text is {type(one.text).__name__}; for many samples call batch with SampleInput")
    for what, given, wanted in (("audio", one.audio, Task.A2V), ("video", one.video, Task.V2A)):
        if given is not None and task is not wanted:
            raise InputError(f"{name}: {task} takes no {what}; found one. Use task '{wanted}', or leave it out.")
        if given is not None and not isinstance(given, str | Path | np.ndarray):
            raise InputError(f"{name}: {what} is {type(given).__name__}; wanted a path or a NumPy array")
    media = one.audio if task is Task.A2V else one.video
    array = media if isinstance(media, np.ndarray) else None
    if array is not None and one.start_s:
        raise InputError(f"{name}: start_s is {one.start_s} with an array; cut the array instead")
    path = Path(media) if isinstance(media, str | Path) else None
    request = Request(name=name, task=task, text=one.text, media=path, start_ms=milliseconds(one.start_s), seed=seed)
    request.check(with_array=array is not None)
    return request, array
