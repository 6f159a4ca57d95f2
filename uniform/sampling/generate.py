"""Sample normalised latents from seeds, text and a conditioning modality."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from uniform.diffusion.guidance import Guidance, guide
from uniform.diffusion.loss import Denoiser
from uniform.diffusion.objective import Objective
from uniform.diffusion.solver import OnStep, Problem, solve
from uniform.errors import InputError
from uniform.model.transformer import UniForm
from uniform.pair import Pair
from uniform.tasks import MODALITIES, Task

NO_GUIDANCE = Guidance(video=1.0, audio=1.0)


@torch.no_grad()
def generate(
    model: UniForm,
    objective: Objective,
    *,
    task: Task,
    seeds: Sequence[int],
    text: Tensor | None = None,
    text_mask: Tensor | None = None,
    conditioning: Pair | None = None,
    solver: str = "ancestral",
    steps: int = 100,
    guidance: Guidance = NO_GUIDANCE,
    fps: float | None = None,
    on_step: OnStep | None = None,
) -> Pair:
    """Sample one batch. Run it under autocast for lower precision of the network; the solver computes in float32.

    Args:
        seeds: one per clip. The noise of a clip depends on its own seed only; that of a modality does not depend on
            the task.
        text: (B, M, text width) features with text_mask bool (B, M); None for no text. A row without any token is a
            clip without text.
        conditioning: normalised latents; only the conditioning modality of the task is read. None for T2AV.
        solver: one of `uniform.diffusion.solver.SOLVERS` that fits the objective.
        on_step: called with (steps done, steps in all).
    Returns: normalised latents, float32, on the model's device; a conditioning modality is returned unchanged.
    Raises: InputError for a missing conditioning modality or one of another shape, an unknown solver, or a number of
        steps out of range.
    """
    device = next(model.parameters()).device
    count = len(seeds)
    generates = Pair(*(torch.full((count,), task.generates(m), device=device) for m in MODALITIES))
    draw = noise_source(seeds, (model.video_latent, model.audio_latent), device)
    first = draw()
    denoiser = _guided(model, objective, task, count, text, text_mask, guidance, fps, first)
    problem = Problem(
        denoiser=denoiser,
        objective=objective,
        clean=_conditioning_latents(model, task, conditioning, count, device),
        generates=generates,
        draw_noise=draw,
        condition_noise=first,
        on_step=on_step or (lambda done, total: None),
    )
    return solve(problem, first, solver, steps)


def noise_source(
    seeds: Sequence[int], shapes: tuple[tuple[int, ...], tuple[int, ...]], device: torch.device
) -> Callable[[], Pair]:
    """A function that draws standard normal latents; each clip and each modality has its own random stream.

    Noise is drawn on the CPU, so that a seed gives the same noise on any device.
    """
    streams = [[torch.Generator().manual_seed((2 * seed + which) % 2**64) for seed in seeds] for which in (0, 1)]

    def draw() -> Pair:
        return Pair(
            *(
                torch.stack([torch.randn(shape, generator=generator) for generator in clips]).to(device)
                for shape, clips in zip(shapes, streams, strict=True)
            )
        )

    return draw


def _conditioning_latents(
    model: UniForm, task: Task, conditioning: Pair | None, count: int, device: torch.device
) -> Pair:
    latents = []
    for modality, shape in zip(MODALITIES, (model.video_latent, model.audio_latent), strict=True):
        if task.generates(modality):
            latents.append(torch.zeros(count, *shape, device=device))
            continue
        if conditioning is None:
            raise InputError(f"task {task} needs the {modality} latent as condition; found none")
        latent = conditioning.of(modality).to(device, torch.float32)
        if latent.shape[0] not in (1, count) or tuple(latent.shape[1:]) != tuple(shape):
            raise InputError(
                f"the conditioning {modality} latent is {tuple(latent.shape)}, wanted {(count, *shape)}: one per seed, "
                f"or one for all, in the spec that the model was trained on"
            )
        latents.append(latent.expand(count, *shape))
    return Pair(*latents)


def _guided(
    model: UniForm,
    objective: Objective,
    task: Task,
    count: int,
    text: Tensor | None,
    text_mask: Tensor | None,
    guidance: Guidance,
    fps: float | None,
    noise: Pair,
) -> Denoiser:
    """The network as a denoiser: the text is embedded once, the guidance branches run as one batch.

    Branches: with all conditions; without the text, if the text is guided; without text and conditioning modality, if
    the conditioning modality is guided. `noise` takes the place of a conditioning modality that is left out.
    """
    device = noise.video.device
    if text is None:
        text = torch.zeros(count, 1, model.config.text_width, device=device)
        text_mask = torch.zeros(count, 1, dtype=torch.bool, device=device)
    mask = torch.ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    text, mask = text.to(device), mask.to(device).bool()
    textless = ~mask.any(dim=1)
    drops = [textless]
    guides_conditioning = guidance.guides_conditioning and task is not Task.T2AV
    if (guidance.guides_text and not bool(textless.all())) or guides_conditioning:
        drops.append(torch.ones_like(textless))
    if guides_conditioning:
        drops.append(torch.ones_like(textless))
    branches = len(drops)
    text_cache = model.cache_text(text.repeat(branches, 1, 1), mask.repeat(branches, 1), torch.cat(drops))
    tasks = torch.full((branches, count), task.number, device=device)
    tasks[2:] = Task.T2AV.number  # no conditioning modality in this branch
    rate = None if fps is None else torch.full((branches * count,), fps, device=device)

    def denoise(noisy: Pair, time: Pair) -> Pair:
        latents, times = [noisy] * min(branches, 2), [time] * min(branches, 2)
        if branches == 3:
            latents.append(Pair(*(noisy.of(m) if task.generates(m) else noise.of(m) for m in MODALITIES)))
            last = torch.full_like(time.video, objective.first_time)
            times.append(Pair(*(time.of(m) if task.generates(m) else last for m in MODALITIES)))
        output = model(_stack(latents), _stack(times), tasks.flatten(), text_cache, fps=rate)
        if branches == 1:
            return Pair(*output)
        parts = [Pair(*each) for each in zip(*(half.chunk(branches) for half in output), strict=True)]
        bare = parts[2] if branches == 3 else None
        return guide(guidance, parts[0], parts[1], bare, learned_variance=objective.learned_variance)

    return denoise


def _stack(pairs: list[Pair]) -> Pair:
    """Concatenate batches."""
    return Pair(torch.cat([pair.video for pair in pairs]), torch.cat([pair.audio for pair in pairs]))
