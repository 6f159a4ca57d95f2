"""Open a sampler from a checkpoint and what a person typed."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from uniform.codecs.device import pick_device
from uniform.codecs.options import parse_options
from uniform.config import Document, build
from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import DiffusionConfig, make_objective
from uniform.errors import CheckpointError
from uniform.fingerprint import digest
from uniform.model.checkpoint import ModelFacts, load_model
from uniform.sampling.conditions import CodecOptions, open_codecs
from uniform.sampling.sampler import SampleConfig, Sampler

USUAL_SOLVER = {"epsilon": ("ancestral", 100), "v": ("ddim", 50), "flow": ("euler", 30)}
"""Solver and steps by objective. Ancestral with 100 steps is Open-Sora's for IDDPM, 30 Euler steps its for flow."""


def open_sampler(checkpoint: Path, *, ema: bool = True, device: str = "auto", codec: Sequence[str] = ()) -> Sampler:
    """The model of a checkpoint with the codecs that its training latents were made by.

    Args:
        checkpoint: run folder, checkpoint folder, or exported file.
        device: "auto", "cpu", "cuda" or "mps".
        codec: options of the codecs, each "KIND.OPTION=VALUE", for instance "video.weights=FOLDER".
    Raises: CheckpointError, InputError, WeightsError, SpecMismatchError; each says what to do next.
    """
    options = CodecOptions(**parse_options(codec))
    model, facts = load_model(checkpoint, ema=ema)
    texts = list(facts.codecs.get("texts", {}).values())
    if not texts:
        raise CheckpointError(f"{checkpoint}: does not say which text codec it was trained with. Export it again.")
    cards = {"video": facts.codecs["video"], "audio": facts.codecs["audio"], "text": texts[0]["codec"]}
    codecs = open_codecs(facts.spec, cards, options)
    config = _diffusion(facts, checkpoint)
    objective = make_objective(config, learned_variance=facts.model.learned_variance)
    origin = {
        "path": str(checkpoint),
        "step": facts.step,
        "ema": ema,
        "digest": digest([facts.as_dict(), ema, _checksum(model)]),
        "objective": config.objective,
        "guidance": config.guidance,
    }
    return Sampler(model.to(pick_device(device)), objective, codecs, origin)


def sample_config(
    sampler: Sampler,
    solver: str | None,
    steps: int | None,
    *,
    cfg: float | None = None,
    cfg_video: float | None = None,
    cfg_audio: float | None = None,
    cfg_given: float | None = None,
    batch_clips: int = 4,
    keep_latents: bool = False,
) -> SampleConfig:
    """Settings with the model's usual values wherever None came in.

    Raises: InputError for a scale that is not above 0.
    """
    usual_solver, usual_steps = USUAL_SOLVER[sampler.origin["objective"]]
    text = sampler.origin["guidance"] if cfg is None else cfg
    guidance = Guidance(
        video=text if cfg_video is None else cfg_video,
        audio=text if cfg_audio is None else cfg_audio,
        given=1.0 if cfg_given is None else cfg_given,
    )
    chosen = solver or usual_solver
    count = steps if steps is not None else usual_steps if chosen == usual_solver else 50
    return SampleConfig(
        solver=chosen, steps=count, guidance=guidance, batch_clips=batch_clips, keep_latents=keep_latents
    )


def _diffusion(facts: ModelFacts, checkpoint: Path) -> DiffusionConfig:
    return build(DiffusionConfig, facts.diffusion, Document(checkpoint, "", {}), "diffusion")


def _checksum(model: torch.nn.Module) -> list[float]:
    """A few numbers that differ between two checkpoints of one run: the sum of each tensor, in float64."""
    sums = [float(tensor.double().sum()) for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return [value if math.isfinite(value) else 0.0 for value in sums]
