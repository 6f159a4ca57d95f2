"""A run's network in files for others: one safetensors file, or a folder shaped like diffusers' models."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file

from uniform.atomic import replacing, write_bytes
from uniform.errors import CheckpointError
from uniform.model.checkpoint import ModelFacts, load_model, save_model

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
DIFFUSERS_CONFIG = "config.json"


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    weights: Path
    files: dict[str, Path]
    """All files of the export, by name."""
    facts: ModelFacts


def export_model(checkpoint: Path, out: Path, *, raw: bool = False) -> Exported:
    """Write the averaged (or `raw`) weights as one file that `load_model` and the sampler read.

    The header holds network, objective, spec, codec cards and the identity of the shards it was trained on.
    Raises: CheckpointError where `checkpoint` is none, or `out` is not a name of a safetensors file.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: exported weights are a .safetensors file; give such a name")
    model, facts = load_model(checkpoint, ema=not raw)
    save_model(out, model, facts)
    return Exported(out, {out.name: out}, facts)


def export_diffusers(checkpoint: Path, out: Path, *, raw: bool = False) -> Exported:
    """Write <out>/config.json and the weights under the names that diffusers uses.

    diffusers has no class for this network; the shape lets hubs and tools that know such folders show and move it.
    Raises: CheckpointError.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out}: is a file; with --diffusers give a folder")
    model, facts = load_model(checkpoint, ema=not raw)
    out.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": type(model).__name__, **asdict(facts.model), "uniform": facts.as_dict()}
    write_bytes(out / DIFFUSERS_CONFIG, f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode())
    with replacing(out / DIFFUSERS_WEIGHTS) as temporary:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
    files = {name: out / name for name in (DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS)}
    return Exported(files[DIFFUSERS_WEIGHTS], files, facts)
