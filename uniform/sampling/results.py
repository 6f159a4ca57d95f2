"""The output folder of samples: finished samples, unfinished ones, and foreign files, which are never overwritten."""

import json
import os
from pathlib import Path
from typing import Any

from uniform.errors import InputError

METADATA_SUFFIX = ".json"
LATENTS_SUFFIX = ".safetensors"
SUFFIXES = (".mp4", ".wav", ".png", METADATA_SUFFIX, LATENTS_SUFFIX)
"""Suffixes of the files of one sample."""


def unfinished_marker(folder: Path, name: str) -> Path:
    """Marker that exists while a sample is written: files without metadata belong to the sampler only beside it."""
    return folder / f".{name}.begun"


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Read the metadata of a sample; None for any other file."""
    try:
        metadata = json.loads(path.read_bytes())
    except ValueError:
        return None
    return metadata if isinstance(metadata, dict) and "request" in metadata else None


def is_finished(folder: Path, name: str, mark: str, *, with_latents: bool) -> bool:
    """Whether `folder` holds the complete sample with this `mark`.

    Raises: InputError where this sample would overwrite a file: a sample made differently, or a foreign file.
    """
    metadata = folder / f"{name}{METADATA_SUFFIX}"
    if metadata.exists():
        found = read_metadata(metadata)
        if found is None or found.get("mark") != mark:
            raise _refusal(
                metadata, "is not a sample" if found is None else "was made with another request, setting or checkpoint"
            )
        wanted = (".mp4", LATENTS_SUFFIX) if with_latents else (".mp4",)
        return all((folder / f"{name}{suffix}").exists() for suffix in wanted)
    there = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()]
    if there and not unfinished_marker(folder, name).exists():
        raise _refusal(there[0], "is not a sample")
    return False


def require_folder(folder: Path) -> None:
    """Raise InputError where `folder` cannot be made or cannot be written to."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be made ({error.strerror}). Choose another --out.") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "cannot be written to" if nearest.is_dir() else "is a file, not a folder"
        raise InputError(f"{nearest} {what}, so no samples can be written to {folder}. Choose another --out.")


def finished(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """JSON file and metadata of every finished sample of `folder`, in the order of the names."""
    read = [(path, read_metadata(path)) for path in sorted(folder.glob(f"*{METADATA_SUFFIX}"))]
    return [(path, metadata) for path, metadata in read if metadata is not None and path.with_suffix(".mp4").is_file()]


def _refusal(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} exists already and {what}. Nothing is overwritten: choose another --out or --name, or remove it."
    )
