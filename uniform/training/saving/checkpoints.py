"""Checkpoints of a run on disk: a folder of safetensors and JSON that is either whole or not there.

    <run>/checkpoints/step-00001000/checkpoint.json         step, config, facts that must agree, sizes of the files
                                    model.safetensors       the network's state dict
                                    ema.safetensors         the same keys, parameters averaged, float32
                                    optimiser.safetensors   exp_avg/<name>, exp_avg_sq/<name>, step/<name>

A folder is written under a temporary name, synced and renamed; its JSON knows the size of each file, so that a folder
whose files were cut later is not picked either. Nothing is pickled.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from uniform.atomic import TEMPORARY_PREFIX
from uniform.errors import CheckpointError, TrainingError

FORMAT_VERSION = 1
FACTS_NAME = "checkpoint.json"
MODEL, EMA, OPTIMISER, ADAPTERS = "model", "ema", "optimiser", "adapters"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a run needs to go on; tensors on the CPU, whole."""

    facts: Mapping[str, Any]
    """JSON-ready; "step" among them."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file: model, ema, optimiser, and with LoRA adapters."""

    @property
    def step(self) -> int:
        """Finished optimiser steps."""
        return int(self.facts["step"])


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a run's folder of checkpoints."""
    return folder / f"step-{step:08d}"


def write_checkpoint(folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot into `folder`, whole or not at all; one of the same step is replaced.

    Raises: TrainingError where the disk is full or the folder cannot be written; what was there stays.
    """
    path = checkpoint_path(folder, snapshot.step)
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}"
    try:
        temporary.mkdir(parents=True)
        for name, tensors in snapshot.tensors.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary / f"{name}.safetensors")
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        facts = {**snapshot.facts, "format_version": FORMAT_VERSION, "files": sizes}
        (temporary / FACTS_NAME).write_text(json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n")
        for file in temporary.iterdir():
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path}: the checkpoint could not be written ({error}). The checkpoints before it are whole: "
            f"make room, then start the same command again; it goes on from the last one."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a run's folder of checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and _is_whole(path)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def read_facts(path: Path) -> dict[str, Any]:
    """checkpoint.json of a checkpoint folder. Raises: CheckpointError where it is none, or of another version."""
    try:
        facts = json.loads((path / FACTS_NAME).read_bytes())
        version = facts["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint folder ({error!r}). Give a folder named step-...") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this toolkit reads {FORMAT_VERSION}.")
    return dict(facts)


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """One of a checkpoint's files. Raises: CheckpointError where it is missing or damaged."""
    try:
        return load_file(path / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / name}.safetensors: cannot be read ({error}). Remove the folder {path.name} to go on from the "
            f"checkpoint before it."
        ) from error


def prune(folder: Path, keep_last: int, keep_every: int | None, keep: int | None = None) -> None:
    """Remove old checkpoints and the remains of processes that died.

    Args:
        keep_last: newest checkpoints that stay.
        keep_every: those at multiples of this step stay too.
        keep: the step of one more that stays (the best).
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in find_checkpoints(folder)[:-keep_last]:
        step = step_of(path)
        if step != keep and (keep_every is None or step % keep_every):
            shutil.rmtree(path)


def _is_whole(path: Path) -> bool:
    try:
        sizes = read_facts(path)["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (CheckpointError, KeyError, OSError, AttributeError):
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
