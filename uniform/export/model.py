"""Exports a run's network: one safetensors file, or a folder in the layout of diffusers' models."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from uniform.atomic import write_bytes
from uniform.checkpoint_format import save_tensors
from uniform.errors import CheckpointError
from uniform.model.checkpoint import DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS, ModelMetadata, load_model, save_model


@dataclass(frozen=True)
class Exported:
    """The files that an export wrote."""

    weights: Path
    files: dict[str, Path]
    """All files of the export, by name."""
    metadata: ModelMetadata


def export_model(checkpoint: Path, out: Path, *, raw: bool = False) -> Exported:
    """Write the averaged (or `raw`) weights as one file that `load_model` and the sampler read.

    The header holds network, objective, spec, codec cards and the identity of the shards it was trained on.
    Raises: CheckpointError where `checkpoint` cannot be read, or `out` does not end in .safetensors.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"{out}: the name of exported weights must end in .safetensors; for a folder use --diffusers"
        )
    model, metadata = load_model(checkpoint, ema=not raw)
    save_model(out, model, metadata)
    return Exported(out, {out.name: out}, metadata)


def export_diffusers(checkpoint: Path, out: Path, *, raw: bool = False) -> Exported:
    """Write <out>/config.json and the weights under the names that diffusers uses.

    `load_model` and the sampler read the folder. diffusers has no class for this network; the layout lets hubs and
    tools that read such folders list and copy it.
    Raises: CheckpointError.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out}: is a file; with --diffusers give a folder")
    model, metadata = load_model(checkpoint, ema=not raw)
    out.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": type(model).__name__, **asdict(metadata.model), "uniform": metadata.as_dict()}
    write_bytes(out / DIFFUSERS_CONFIG, f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode())
    save_tensors(out / DIFFUSERS_WEIGHTS, model.state_dict())
    files = {name: out / name for name in (DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS)}
    return Exported(files[DIFFUSERS_WEIGHTS], files, metadata)
