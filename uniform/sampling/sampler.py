"""Turn requests into sample files: run the model in batches and decode with the codecs of its training latents."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import Objective
from uniform.diffusion.solver import check_solver
from uniform.errors import InputError
from uniform.fingerprint import file_sha256
from uniform.media.sandbox import MediaSandbox
from uniform.model.transformer import UniForm
from uniform.pair import Pair
from uniform.sampling.conditions import Codecs, Condition, ConditionReader, decode_audio, decode_video
from uniform.sampling.generate import generate
from uniform.sampling.provenance import Provenance
from uniform.sampling.render import Rendered, write_sample
from uniform.sampling.request import Request
from uniform.sampling.results import is_finished, require_folder
from uniform.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Settings of the sampler."""

    solver: str = "ancestral"
    """One of `uniform.diffusion.solver.SOLVERS` that fits the model's objective."""
    steps: int = 100
    guidance: Guidance
    batch_clips: int = 4
    """Samples per call of the model. Batches depend on the list of requests only, not on finished samples."""
    keep_latents: bool = False
    """Also write `<name>.safetensors` with the normalised latents."""

    def __post_init__(self) -> None:
        if self.batch_clips < 1:
            raise InputError(f"the batch is {self.batch_clips}; it must be 1 or more")


@dataclass(frozen=True)
class Progress:
    """Progress of a run of the sampler."""

    done: int
    """Finished samples, including those of earlier runs."""
    total: int
    step: int
    """Finished solver steps of the current batch."""
    steps: int


@dataclass(frozen=True)
class Sampler:
    """A model with its codecs: makes samples from requests."""

    model: UniForm
    objective: Objective
    codecs: Codecs
    origin: Mapping[str, Any]
    """Metadata of the checkpoint, written into each sample's JSON: path, step, digest and more."""
    precision: torch.dtype | None = None
    """Autocast type of the network; None computes in float32. The solver always computes in float32."""

    def run(
        self,
        requests: Sequence[Request],
        folder: Path,
        config: SampleConfig,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> list[Path]:
        """Make every sample that `folder` does not hold yet.

        A finished sample of the same request, settings and checkpoint is kept, so a stopped run resumes.
        Returns: the MP4 files, in the order of the requests.
        Raises: InputError before any sample is made: for an invalid request, or where a file of the same name was
            made differently. InputError after all other samples are made: for media files that cannot be used.
            InputError where the output of the network is not finite.
        """
        self._check(requests, folder, config)
        sha256 = lru_cache(maxsize=1)(file_sha256)
        made_of = [
            self.provenance(request, config, sha256(request.media) if request.media else None) for request in requests
        ]
        finished = [
            is_finished(folder, one.request.name, one.mark, with_latents=config.keep_latents) for one in made_of
        ]
        done = sum(finished)
        failures: list[str] = []
        with MediaSandbox() as sandbox:
            reader = ConditionReader(self.codecs, sandbox)
            for batch in _batches(requests, config.batch_clips):
                if all(finished[number] for number in batch):
                    continue
                conditions = _read(reader, {number: requests[number] for number in batch}, failures)
                if all(finished[number] for number in conditions):
                    continue

                def report(step: int, steps: int, done: int = done) -> None:
                    on_progress(Progress(done, len(requests), step, steps))

                latents = self._generate(list(conditions.values()), config, report)
                for place, (number, condition) in enumerate(conditions.items()):
                    if not finished[number]:
                        one = self._render(condition, latents, place, made_of[number], keep=config.keep_latents)
                        write_sample(folder, requests[number].name, one, self.codecs.spec)
                        done += 1
        on_progress(Progress(done, len(requests), 0, 0))
        if failures:
            reasons = "\n  ".join(failures)
            raise InputError(f"{done} of {len(requests)} samples are made; these failed:\n  {reasons}")
        return [folder / f"{request.name}.mp4" for request in requests]

    def make(
        self,
        conditions: Sequence[Condition],
        config: SampleConfig,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> list[tuple[Rendered, Provenance]]:
        """Make samples in memory, with their latents: the same bytes as `run` for the same requests.

        Raises: InputError for settings that do not fit the model, or where the output of the network is not finite.
        """
        requests = [condition.request for condition in conditions]
        self.check(requests, config)
        sha256 = lru_cache(maxsize=1)(file_sha256)
        made: dict[int, tuple[Rendered, Provenance]] = {}
        for batch in _batches(requests, config.batch_clips):

            def report(step: int, steps: int, done: int = len(made)) -> None:
                on_progress(Progress(done, len(requests), step, steps))

            latents = self._generate([conditions[number] for number in batch], config, report)
            for place, number in enumerate(batch):
                request, condition = requests[number], conditions[number]
                media = condition.conditioning.sha256 if request.media is None else sha256(request.media)
                made_of = self.provenance(request, config, media)
                made[number] = self._render(condition, latents, place, made_of, keep=True), made_of
        on_progress(Progress(len(made), len(requests), 0, 0))
        return [made[number] for number in range(len(requests))]

    def _check(self, requests: Sequence[Request], folder: Path, config: SampleConfig) -> None:
        """Check everything that can be checked before the first sample."""
        self.check(requests, config)
        require_folder(folder)
        for request in requests:
            request.check()

    def check(self, requests: Sequence[Request], config: SampleConfig) -> None:
        """Check the settings against the model and the tasks. Raises: InputError."""
        check_solver(config.solver, self.objective, config.steps)
        if config.guidance.guides_conditioning and all(request.task is Task.T2AV for request in requests):
            raise InputError(
                "t2av has no conditioning modality, so --cfg-given has no effect. Leave it out, or use a2v or v2a."
            )
        if config.guidance.guides_conditioning and not self.origin.get("independent_timesteps"):
            log.warning(
                "the model was not trained with diffusion.independent_timesteps, so it never saw one modality as pure "
                "noise beside a partly noised one: guidance by the conditioning modality may lower quality"
            )

    def provenance(self, request: Request, config: SampleConfig, media_sha256: str | None) -> Provenance:
        """All inputs of a sample."""
        return Provenance(
            request=request,
            media_sha256=media_sha256,
            settings={"solver": config.solver, "steps": config.steps, "guidance": config.guidance.as_dict()},
            precision=None if self.precision is None else str(self.precision),
            origin=self.origin,
        )

    def _generate(
        self, conditions: Sequence[Condition], config: SampleConfig, on_step: Callable[[int, int], None]
    ) -> Pair:
        task = conditions[0].request.task
        text, mask = _pad([condition.text for condition in conditions], self.model.config.text_width)
        rows = [condition.conditioning.latent for condition in conditions]
        media = torch.stack([row for row in rows if row is not None]) if rows[0] is not None else None
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.precision, enabled=self.precision is not None):
            latents = generate(
                self.model,
                self.objective,
                task=task,
                seeds=[condition.request.seed for condition in conditions],
                text=text,
                text_mask=mask,
                conditioning=None if media is None else Pair(media, media),  # only the conditioning modality is read
                solver=config.solver,
                steps=config.steps,
                guidance=config.guidance,
                fps=float(self.codecs.spec.fps),
                on_step=on_step,
            )
        for place, condition in enumerate(conditions):
            if not (latents.video[place].isfinite().all() and latents.audio[place].isfinite().all()):
                raise InputError(
                    f"{condition.request.name}: the output of the network is not finite after {config.steps} steps of "
                    f"{config.solver} with {self.origin.get('path')} at step {self.origin.get('step')}. Its weights "
                    f"may have diverged: try an earlier checkpoint, --no-ema, or another solver."
                )
        return latents

    def _render(self, condition: Condition, batch: Pair, place: int, made_of: Provenance, *, keep: bool) -> Rendered:
        """Decode one sample of a batch. A conditioning modality is kept as read, not decoded from its latent."""
        media = condition.conditioning
        latents = batch.map(lambda tensor: tensor[place].cpu())
        for note in condition.notes:
            log.warning("%s: %s", condition.request.name, note)
        return Rendered(
            decode_video(latents.video, self.codecs) if media.frames is None else media.frames,
            decode_audio(latents.audio, self.codecs) if media.waveform is None else media.waveform,
            made_of.metadata(condition.notes),
            latents if keep else None,
        )


def _read(reader: ConditionReader, requests: Mapping[int, Request], failures: list[str]) -> dict[int, Condition]:
    """Conditions by number of the request; the message of an unusable file is added to `failures`."""
    conditions = {}
    for number, request in requests.items():
        try:
            conditions[number] = reader.read(request)
        except InputError as error:
            log.error("%s", error)
            failures.append(str(error))
    return conditions


def _batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Numbers of requests, batch by batch, one task per batch. The batches depend on the list of requests only, so a
    resumed run has the same batches and writes the same bytes."""
    for task in dict.fromkeys(request.task for request in requests):
        numbers = [number for number, request in enumerate(requests) if request.task is task]
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def _pad(texts: Sequence[Tensor | None], width: int) -> tuple[Tensor, Tensor]:
    """Features (B, M, width) and mask (B, M) of captions of different lengths; a row without text has no token."""
    longest = max((len(text) for text in texts if text is not None), default=1)
    features, mask = torch.zeros(len(texts), longest, width), torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        if text is not None:
            features[row, : len(text)] = text
            mask[row, : len(text)] = True
    return features, mask
