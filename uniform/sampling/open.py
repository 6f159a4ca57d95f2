"""Open a sampler from a checkpoint and options."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from uniform.codecs.device import pick_device
from uniform.codecs.options import KINDS, parse_options
from uniform.config import Document, build, nearest
from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import DiffusionConfig, make_objective
from uniform.diffusion.solver import require_known
from uniform.errors import CheckpointError, InputError
from uniform.fingerprint import digest
from uniform.model.checkpoint import ModelMetadata, load_model
from uniform.sampling.conditions import CodecOptions, open_codecs
from uniform.sampling.locate import locate_checkpoint
from uniform.sampling.sampler import SampleConfig, Sampler

PRECISIONS = ("auto", "bf16", "fp32")
DEFAULT_SOLVER = {"epsilon": "ancestral", "v": "ddim", "flow": "euler"}
"""By objective."""
DEFAULT_STEPS = {"ancestral": 100, "ddim": 50, "dpm++": 20}
"""By solver; flow takes the model's `flow_steps`. 100 ancestral steps are Open-Sora's setting for IDDPM."""


def open_sampler(
    checkpoint: str | Path,
    *,
    ema: bool = True,
    device: str = "auto",
    precision: str = "auto",
    codec: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    revision: str | None = None,
) -> Sampler:
    """Load the model of a checkpoint and open the codecs that made its training latents.

    Args:
        checkpoint: run directory, checkpoint folder, exported file or folder, or hub id (`locate_checkpoint`).
        device: "auto", "cpu", "cuda" or "mps".
        precision: of the network, "bf16" (autocast) or "fp32"; "auto" is bf16 on CUDA, as in training.
        codec: options of the codecs, each "KIND.OPTION=VALUE", for instance "video.weights=FOLDER"; or by kind and
            name, for instance {"video": {"weights": "FOLDER"}}.
        revision: branch, tag or commit of a hub id.
    Raises: CheckpointError, InputError, WeightsError, SpecMismatchError.
    """
    options = _codec_options(codec)
    where = pick_device(device)
    dtype = _precision(precision, where)
    model, metadata = load_model(locate_checkpoint(checkpoint, revision), ema=ema)
    texts = list(metadata.codecs.get("texts", {}).values())
    if not texts:
        raise CheckpointError(f"{checkpoint}: names no text codec of its training. Export it again.")
    cards = {"video": metadata.codecs["video"], "audio": metadata.codecs["audio"], "text": texts[0]["codec"]}
    codecs = open_codecs(metadata.spec, cards, options)
    config = _diffusion(metadata, Path(checkpoint))
    objective = make_objective(config, learned_variance=metadata.model.learned_variance)
    origin = {
        "path": str(checkpoint),
        "step": metadata.step,
        "ema": ema,
        "digest": digest([metadata.as_dict(), ema, _checksum(model)]),
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
    """Build the settings; None takes the model's default.

    Raises: InputError for a scale that is not above 0.
    """
    check_choices(solver, cfg=cfg, cfg_video=cfg_video, cfg_audio=cfg_audio, cfg_given=cfg_given)
    text = sampler.origin["guidance"] if cfg is None else cfg
    guidance = Guidance(
        video=text if cfg_video is None else cfg_video,
        audio=text if cfg_audio is None else cfg_audio,
        conditioning=1.0 if cfg_given is None else cfg_given,
    )
    chosen = solver or DEFAULT_SOLVER[sampler.origin["objective"]]
    count = DEFAULT_STEPS.get(chosen, sampler.origin["flow_steps"]) if steps is None else steps
    return SampleConfig(
        solver=chosen, steps=count, guidance=guidance, batch_clips=batch_clips, keep_latents=keep_latents
    )


def check_choices(solver: str | None, **scales: float | None) -> None:
    """Check what needs no weights. Raises: InputError for an unknown solver or a guidance scale out of range."""
    if solver is not None:
        require_known(solver)
    for name, scale in scales.items():
        if scale is not None and not 0 < scale < math.inf:
            raise InputError(
                f"--{name.replace('_', '-')} is {scale}; a guidance scale must be above 0 (1 is no guidance)"
            )


def _codec_options(given: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> CodecOptions:
    if not isinstance(given, Mapping):
        return CodecOptions(**parse_options(given))
    for kind in given:
        if kind not in KINDS:
            raise InputError(f"codec options: there is no codec for '{kind}'{nearest(kind, KINDS)}")
    return CodecOptions(**given)


def _precision(wanted: str, device: torch.device) -> torch.dtype | None:
    if wanted not in PRECISIONS:
        raise InputError(f"there is no precision '{wanted}'{nearest(wanted, PRECISIONS)}")
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if wanted == "bf16" else None


def _diffusion(metadata: ModelMetadata, checkpoint: Path) -> DiffusionConfig:
    return build(DiffusionConfig, metadata.diffusion, Document(checkpoint, "", {}), "diffusion")


def _checksum(model: torch.nn.Module) -> list[float]:
    """Sum of each tensor in float64; differs between two checkpoints of one run."""
    sums = [float(tensor.double().sum()) for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return [value if math.isfinite(value) else 0.0 for value in sums]
