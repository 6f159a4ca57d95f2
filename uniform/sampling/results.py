"""The folder that samples go to: what is finished there, what was begun, and what is not ours and stays as it is."""

import json
import os
from pathlib import Path
from typing import Any

from uniform.errors import InputError

FACTS_SUFFIX = ".json"
LATENTS_SUFFIX = ".safetensors"
SUFFIXES = (".mp4", ".wav", ".png", FACTS_SUFFIX, LATENTS_SUFFIX)
"""Of the files of one sample."""


def begun(folder: Path, name: str) -> Path:
    """A mark that stands while the files of a sample are written: without its facts, they are ours only beside it."""
    return folder / f".{name}.begun"


def read_facts(path: Path) -> dict[str, Any] | None:
    """The facts of a sample; None for any other JSON file, and for one that is none."""
    try:
        facts = json.loads(path.read_bytes())
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "request" in facts else None


def is_finished(folder: Path, name: str, mark: str, *, with_latents: bool) -> bool:
    """Whether `folder` holds the whole sample that `mark` stands for.

    Raises: InputError where a file of that name is there that this sample would overwrite: one made in another way,
        or one that is no sample at all.
    """
    facts = folder / f"{name}{FACTS_SUFFIX}"
    if facts.exists():
        found = read_facts(facts)
        if found is None or found.get("mark") != mark:
            raise _refusal(
                facts, "and is no sample" if found is None else "made with another request, setting or checkpoint"
            )
        wanted = (".mp4", LATENTS_SUFFIX) if with_latents else (".mp4",)
        return all((folder / f"{name}{suffix}").exists() for suffix in wanted)
    there = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()]
    if there and not begun(folder, name).exists():
        raise _refusal(there[0], "and is no sample")
    return False


def require_folder(folder: Path) -> None:
    """Raise InputError where `folder` is none and cannot become one, or may not be written to."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made there ({error.strerror}). Choose another --out.") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "may not be written to" if nearest.is_dir() else "is a file, not a folder"
        raise InputError(f"{nearest}: {what}, and the samples were to go to {folder}. Choose another --out.")


def finished(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Facts file and facts of every finished sample of `folder`, in the order of the names."""
    read = [(path, read_facts(path)) for path in sorted(folder.glob(f"*{FACTS_SUFFIX}"))]
    return [(path, facts) for path, facts in read if facts is not None and path.with_suffix(".mp4").is_file()]


def _refusal(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is there already, {what}. Nothing is overwritten: choose another --out or --name, or remove it."
    )
