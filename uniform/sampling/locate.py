"""Find a checkpoint: a path of this machine, or a model on the hub, fetched through huggingface_hub's cache."""

import re
from pathlib import Path

from uniform.codecs.hub import Source
from uniform.errors import CheckpointError, WeightsError
from uniform.model.checkpoint import DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS

SINGLE_FILE = "model.safetensors"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate_checkpoint(checkpoint: str | Path, revision: str | None = None) -> Path:
    """The path of a checkpoint, fetched from the hub where it is not on this machine.

    Args:
        checkpoint: a file, a run directory, a checkpoint folder or an exported folder; a hub id `owner/name`, whose
            repository holds config.json and diffusion_pytorch_model.safetensors, or model.safetensors; or
            `owner/name/FILE.safetensors` for one exported file of a repository.
        revision: branch, tag or commit on the hub; None is its main branch.
    Raises: CheckpointError where it is neither, or the hub cannot be reached or lacks the files.
    """
    path, text = Path(checkpoint), str(checkpoint)
    if path.exists():
        return path
    owner_and_name, file = text, ""
    if text.endswith(".safetensors") and text.count("/") >= 2:
        owner, name, file = text.split("/", 2)
        owner_and_name = f"{owner}/{name}"
    if not _HUB_ID.fullmatch(owner_and_name) or ".." in file.split("/") or text.endswith("/"):
        raise CheckpointError(
            f"{text}: not found. Give a run directory, a checkpoint, an exported file or folder, or a hub id "
            f"owner/name."
        )
    source = Source(model=f"checkpoint {text}", hub_id=owner_and_name, revision=revision)
    try:
        return source.file(file) if file else _model_of(source)
    except WeightsError as error:
        reason = str(error).partition(". ")[0]
        raise CheckpointError(
            f"{text}: no such file or folder here, and it cannot be had as a hub id ({reason}). Check the path or the "
            f"id; a private repository needs a login (hf auth login)."
        ) from error


def _model_of(source: Source) -> Path:
    """The exported folder of a repository, or its model.safetensors; all files are of one commit."""
    config = source.find(DIFFUSERS_CONFIG)
    if config is not None:
        source = source.at_commit_of(config)
        if source.find(DIFFUSERS_WEIGHTS) is not None:
            return config.parent
    return source.file(SINGLE_FILE)
