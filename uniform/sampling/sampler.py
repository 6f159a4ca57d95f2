"""From requests to rendered samples: batches through the model, decoded by the codecs of its training latents."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from uniform.atomic import replacing
from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import Objective
from uniform.diffusion.solver import check_solver
from uniform.errors import InputError
from uniform.fingerprint import digest
from uniform.media.sandbox import MediaSandbox
from uniform.model.transformer import UniForm
from uniform.pair import Pair
from uniform.sampling.conditions import Codecs, Condition, decode, read_condition
from uniform.sampling.generate import generate
from uniform.sampling.render import Rendered, write_sample
from uniform.sampling.request import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How samples are made."""

    solver: str = "ancestral"
    """One of `uniform.diffusion.solver.SOLVERS` that fits the model's objective."""
    steps: int = 100
    guidance: Guidance
    batch_clips: int = 4
    """Samples per call of the model. The batches of a list of requests never depend on what is done already."""
    keep_latents: bool = False
    """Write `<name>.safetensors` with the normalised latents too."""

    def __post_init__(self) -> None:
        if self.batch_clips < 1:
            raise InputError(f"the batch is {self.batch_clips}; it must be 1 or more")


@dataclass(frozen=True)
class Progress:
    """Where a run of the sampler stands."""

    done: int
    """Finished samples, those of earlier runs among them."""
    total: int
    step: int
    """Solver steps done in the batch at work."""
    steps: int


@dataclass(frozen=True)
class Sampler:
    """A model with its codecs, ready for requests."""

    model: UniForm
    objective: Objective
    codecs: Codecs
    origin: Mapping[str, Any]
    """Facts of the checkpoint, for the samples' own facts: path, step, digest."""

    def run(
        self,
        requests: Sequence[Request],
        folder: Path,
        config: SampleConfig,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> list[Path]:
        """Make every sample that `folder` does not hold yet.

        A finished sample made by the same request, settings and checkpoint is kept; so a run that was stopped goes on.
        Returns: the MP4 files, in the order of the requests.
        Raises: InputError for a request that cannot be served (before anything is made), or where a file of the same
            name was made differently: nothing is overwritten.
        """
        check_solver(config.solver, self.objective, config.steps)
        for request in requests:
            request.check()
        marks = [self._mark(request, config) for request in requests]
        finished = [_is_finished(folder, request, mark) for request, mark in zip(requests, marks, strict=True)]
        done = sum(finished)
        with MediaSandbox() as sandbox:
            for batch in _batches(requests, config.batch_clips):
                if all(finished[number] for number in batch):
                    continue
                conditions = [read_condition(requests[number], self.codecs, sandbox) for number in batch]

                def tell(step: int, steps: int, done: int = done) -> None:
                    on_progress(Progress(done, len(requests), step, steps))

                latents = self._generate(conditions, config, tell)
                for place, number in enumerate(batch):
                    if not finished[number]:
                        one = latents.map(lambda tensor, place=place: tensor[place : place + 1])  # type: ignore[misc]
                        self._finish(conditions[place], one, folder, config, marks[number])
                        done += 1
        on_progress(Progress(done, len(requests), 0, 0))
        return [folder / f"{request.name}.mp4" for request in requests]

    def _mark(self, request: Request, config: SampleConfig) -> str:
        """Equal marks make equal samples; names, batch size and kept latents do not count."""
        settings = {"solver": config.solver, "steps": config.steps, "guidance": asdict(config.guidance)}
        return digest([request.digest(), settings, self.origin.get("digest")])

    def _generate(
        self, conditions: Sequence[Condition], config: SampleConfig, on_step: Callable[[int, int], None]
    ) -> Pair:
        task = conditions[0].request.task
        text, mask = _pad([condition.text for condition in conditions], self.model.config.text_width)
        rows = [condition.latent(self.codecs) for condition in conditions]
        given = torch.stack([row for row in rows if row is not None]) if rows[0] is not None else None
        return generate(
            self.model,
            self.objective,
            task=task,
            seeds=[condition.request.seed for condition in conditions],
            text=text,
            text_mask=mask,
            given=None if given is None else Pair(given, given),  # only the given modality's place is read
            solver=config.solver,
            steps=config.steps,
            guidance=config.guidance,
            fps=float(self.codecs.spec.fps),
            on_step=on_step,
        )

    def _finish(self, condition: Condition, latents: Pair, folder: Path, config: SampleConfig, mark: str) -> None:
        """Decode and write one sample. A given modality is shown as it came, never through the codec."""
        request = condition.request
        frames, waveforms = decode(latents.map(lambda tensor: tensor.cpu()), self.codecs)
        facts = {
            "request": {**asdict(request), "media": str(request.media) if request.media else None},
            "settings": {"solver": config.solver, "steps": config.steps, "guidance": asdict(config.guidance)},
            "checkpoint": dict(self.origin),
            "notes": list(condition.notes),
            "mark": mark,
        }
        sample = Rendered(
            frames[0] if condition.frames is None else condition.frames,
            waveforms[0] if condition.waveform is None else condition.waveform,
            facts,
        )
        if config.keep_latents:
            with replacing(folder / f"{request.name}.safetensors") as temporary:
                save_file({"video": latents.video[0].cpu(), "audio": latents.audio[0].cpu()}, temporary)
        write_sample(folder, request.name, sample, self.codecs.spec)
        for note in condition.notes:
            log.info("%s: %s", request.name, note)


def _is_finished(folder: Path, request: Request, mark: str) -> bool:
    facts, video = folder / f"{request.name}.json", folder / f"{request.name}.mp4"
    if not (facts.exists() and video.exists()):
        return False
    try:
        found = json.loads(facts.read_bytes()).get("mark")
    except (ValueError, AttributeError):
        found = None
    if found != mark:
        raise InputError(
            f"{video}: a sample of this name is there, made with another request, setting or checkpoint. "
            f"Nothing is overwritten: choose another --out or --name, or remove the file."
        )
    return True


def _batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Numbers of requests, batch by batch, one task to a batch. A function of the list alone, so that a run that was
    stopped goes on with the same batches, and so with the same bytes."""
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
