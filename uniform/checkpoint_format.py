"""The checkpoint format: names, version, search, reading and writing, for every program that uses checkpoints.

    <run>/checkpoints/step-00001000/checkpoint.json         step, config, fixed values, sizes of the files
                                    model.safetensors       the network's state dict
                                    ema.safetensors         the same keys, parameters averaged, float32
                                    optimiser.safetensors   exp_avg/<name>, exp_avg_sq/<name>, step/<name>

A checkpoint of another format version is refused, never skipped. A damaged one (a file is missing or has another size
than checkpoint.json states) is skipped with a warning. Neither is deleted, except one that lacks files and is older
than an intact one: a removal that was killed leaves such. Nothing is pickled.
"""

import json
import logging
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

from uniform.atomic import TEMPORARY_PREFIX, replacing, replacing_folder
from uniform.errors import CheckpointError, TrainingError

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
METADATA_NAME = "checkpoint.json"
CHECKPOINTS_NAME = "checkpoints"
"""Folder of a run that holds its checkpoints."""
MODEL, EMA, OPTIMISER, ADAPTERS = "model", "ema", "optimiser", "adapters"
_NAME = re.compile(r"step-(\d{8,})")


class FormatVersionError(CheckpointError):
    """A checkpoint was written by a toolkit with another checkpoint format."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a run needs to resume; tensors on the CPU, gathered."""

    metadata: Mapping[str, Any]
    """JSON-ready; "step" among them."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file: model, ema, optimiser, and with LoRA adapters."""

    @property
    def step(self) -> int:
        """Finished optimiser steps."""
        return int(self.metadata["step"])


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint after `step` steps in a run's folder of checkpoints."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint folder. Raises: CheckpointError where it is no such name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: not the name of a checkpoint; it must be step- and eight digits")
    return int(match[1])


def find_checkpoints(folder: Path) -> list[Path]:
    """The intact checkpoints in a run's folder of checkpoints, oldest first.

    Raises: FormatVersionError where one is of another format version.
    """
    return [path for path in _named(folder) if damage(path) is None]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint in a run's folder of checkpoints; None where there is none.

    Each damaged one that is newer is named in a warning.
    Raises: FormatVersionError where a newer one is of another format version.
    """
    for path in reversed(_named(folder)):
        reason = damage(path)
        if reason is None:
            return path
        logger.warning("%s is damaged (%s); the checkpoint before it is used", path, reason)
    return None


def damage(path: Path) -> str | None:
    """Why the files of a checkpoint folder are not those that were written; None where they are.

    Raises: FormatVersionError.
    """
    try:
        sizes = read_metadata(path)["files"]
        for name, size in sizes.items():
            found = (path / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
    except FormatVersionError:
        raise
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (CheckpointError, KeyError, AttributeError, TypeError):
        return f"{METADATA_NAME} is missing or incomplete"
    return None


def require_intact(path: Path) -> None:
    """Raise CheckpointError where a checkpoint folder that was asked for by name is damaged."""
    reason = damage(path)
    if reason is not None:
        raise CheckpointError(f"{path} is damaged: {reason}. Use another checkpoint of the run.")


def read_metadata(path: Path) -> dict[str, Any]:
    """checkpoint.json of a checkpoint folder. Raises: CheckpointError where it is none, FormatVersionError."""
    try:
        metadata = dict(json.loads((path / METADATA_NAME).read_bytes()))
        version = metadata["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint folder ({error!r}). Give a folder named step-...") from error
    require_version(path.name, version)
    return metadata


def require_version(name: str, version: object) -> None:
    """Raise FormatVersionError where `version` is not the format that this toolkit reads."""
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{name} is of format {version}, this toolkit reads {FORMAT_VERSION}. Upgrade, or pass another --out."
        )


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """One of a checkpoint's files. Raises: CheckpointError where it is missing or damaged."""
    try:
        return load_file(path / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / name}.safetensors: cannot be read ({error}). Move the folder {path.name} elsewhere to use the "
            f"checkpoint before it."
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with the file mode that the umask gives (the library's own is 0600)."""
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        save_file(contiguous, temporary, metadata=None if metadata is None else dict(metadata))
        temporary.chmod(mode)


def write_checkpoint(folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot into `folder` atomically. An intact one of the same step is replaced, a damaged one renamed.

    Raises: TrainingError where the disk is full or the folder cannot be written: nothing changes then.
        FormatVersionError where one of the same step is of another format version.
    """
    path = checkpoint_path(folder, snapshot.step)
    try:
        if path.exists() and damage(path) is not None:
            _move_aside(path)
        with replacing_folder(path) as temporary:
            for name, tensors in snapshot.tensors.items():
                save_tensors(temporary / f"{name}.safetensors", tensors)
            sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            metadata = {**snapshot.metadata, "format_version": FORMAT_VERSION, "files": sizes}
            text = json.dumps(metadata, indent=2, sort_keys=True, allow_nan=False)
            (temporary / METADATA_NAME).write_text(f"{text}\n")
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path}: the checkpoint could not be written ({error}). The checkpoints before it are intact: "
            f"free some disk space, then start the same command again; it resumes from the last one."
        ) from error
    return path


def prune(folder: Path, keep_last: int, keep_every: int | None, keep: int | None = None) -> None:
    """Remove old intact checkpoints, damaged ones older than the newest intact one, and temporary folders.

    A checkpoint is renamed to a temporary name first, so that one that is removed halfway is never taken for one. What
    cannot be removed (a file that another program holds open on a network share) is tried again after the next
    checkpoint and never stops the run.

    Args:
        keep_last: newest checkpoints to keep.
        keep_every: keep those at multiples of this step too.
        keep: the step of one more to keep (the best).
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    named = _named(folder)
    intact = [path for path in named if _is_intact(path)]
    if not intact:
        return
    old = [path for path in named if path < intact[-1] and _is_partly_removed(path)]
    for path in intact[:-keep_last]:
        step = step_of(path)
        if step != keep and (keep_every is None or step % keep_every):
            old.append(path)
    for path in old:
        _remove(path)


def _remove(path: Path) -> None:
    aside = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        path.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        logger.warning(
            "%s: an old checkpoint cannot be removed now (%s); it is tried again after the next one", path, error
        )


def _is_partly_removed(path: Path) -> bool:
    """Whether a checkpoint lacks some of its files, as a removal that was killed leaves it."""
    try:
        return any(not (path / name).exists() for name in read_metadata(path)["files"])
    except FormatVersionError:
        return False
    except (CheckpointError, KeyError, TypeError):
        return not (path / METADATA_NAME).exists()


def _named(folder: Path) -> list[Path]:
    """Everything that is named like a checkpoint, by step."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint can be read by this toolkit; one that cannot is not this toolkit's to remove."""
    try:
        return damage(path) is None
    except FormatVersionError:
        return False


def _move_aside(path: Path) -> None:
    """Rename a damaged checkpoint whose name is needed; it is kept for whoever wants to look at it."""
    number = 1
    while (aside := path.with_name(f"damaged-{path.name}-{number}")).exists():
        number += 1
    path.rename(aside)
    logger.warning("%s is damaged and in the way of a new checkpoint; it is now %s", path, aside.name)
