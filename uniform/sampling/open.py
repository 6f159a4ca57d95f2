"""Open a sampler from a checkpoint and what a person typed."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from uniform.codecs.device import pick_device
from uniform.codecs.options import parse_options
from uniform.config import Document, build, nearest
from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import DiffusionConfig, make_objective
from uniform.diffusion.solver import require_known
from uniform.errors import CheckpointError, InputError
from uniform.fingerprint import digest
from uniform.model.checkpoint import ModelFacts, load_model
from uniform.sampling.conditions import CodecOptions, open_codecs
from uniform.sampling.sampler import SampleConfig, Sampler

PRECISIONS = ("auto", "bf16", "fp32")
USUAL_SOLVER = {"epsilon": "ancestral", "v": "ddim", "flow": "euler"}
"""By objective."""
USUAL_STEPS = {"ancestral": 100, "ddim": 50, "dpm++": 20}
"""By solver; of flow the model's own. 100 ancestral steps are Open-Sora's for IDDPM."""


def open_sampler(
    checkpoint: Path, *, ema: bool = True, device: str = "auto", precision: str = "auto", codec: Sequence[str] = ()
) -> Sampler:
    """The model of a checkpoint with the codecs that its training latents were made by.

    Args:
        checkpoint: run folder, checkpoint folder, or exported file.
        device: "auto", "cpu", "cuda" or "mps".
        precision: of the network, "bf16" (autocast) or "fp32"; "auto" is bf16 on CUDA, as in training.
        codec: options of the codecs, each "KIND.OPTION=VALUE", for instance "video.weights=FOLDER".
    Raises: CheckpointError, InputError, WeightsError, SpecMismatchError; each says what to do next.
    """
    options = CodecOptions(**parse_options(codec))
    where = pick_device(device)
    dtype = _precision(precision, where)
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
        "flow_steps": config.flow_steps,
        "independent_timesteps": config.independent_timesteps,
    }
    return Sampler(model.to(where), objective, codecs, origin, dtype)


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
    check_choices(solver, cfg=cfg, cfg_video=cfg_video, cfg_audio=cfg_audio, cfg_given=cfg_given)
    text = sampler.origin["guidance"] if cfg is None else cfg
    guidance = Guidance(
        video=text if cfg_video is None else cfg_video,
        audio=text if cfg_audio is None else cfg_audio,
        given=1.0 if cfg_given is None else cfg_given,
    )
    chosen = solver or USUAL_SOLVER[sampler.origin["objective"]]
    count = USUAL_STEPS.get(chosen, sampler.origin["flow_steps"]) if steps is None else steps
    return SampleConfig(
        solver=chosen, steps=count, guidance=guidance, batch_clips=batch_clips, keep_latents=keep_latents
    )


def check_choices(solver: str | None, **scales: float | None) -> None:
    """What can be told without the model's weights. Raises: InputError for an unknown solver or an impossible scale."""
    if solver is not None:
        require_known(solver)
    for name, scale in scales.items():
        if scale is not None and not 0 < scale < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {scale}; guidance must be above 0 (1 is none)")


def _precision(wanted: str, device: torch.device) -> torch.dtype | None:
    if wanted not in PRECISIONS:
        raise InputError(f"there is no precision '{wanted}'{nearest(wanted, PRECISIONS)}")
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def _diffusion(facts: ModelFacts, checkpoint: Path) -> DiffusionConfig:
    return build(DiffusionConfig, facts.diffusion, Document(checkpoint, "", {}), "diffusion")


def _checksum(model: torch.nn.Module) -> list[float]:
    """A few numbers that differ between two checkpoints of one run: the sum of each tensor, in float64."""
    sums = [float(tensor.double().sum()) for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return [value if math.isfinite(value) else 0.0 for value in sums]
