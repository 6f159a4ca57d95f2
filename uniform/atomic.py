"""Atomic writes: a file or folder appears under its name complete and synced, or not at all."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
"""Files and folders under this prefix were left by a process that died; no reader uses them."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to `path` when the block succeeds, removed when it fails.

    The file is synced before the rename and its folder after it, so that after a power cut the name
    never points at bytes that were not yet on disk. The caller closes what it opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder of files: the temporary folder exists, and an older folder `path` is replaced.

    The older folder is removed only after the new one has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, older = _temporary(path), _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            path.rename(older)
        temporary.rename(path)
        sync(path.parent)
    finally:
        if older.exists() and not path.exists():
            older.rename(path)
        for folder in (temporary, older):
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Return when the file or folder `path` is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")


def remove_if_dead(path: Path) -> bool:
    """Remove a temporary file whose writer ended; False where a process holds its lock (flock), or it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        with contextlib.suppress(OSError):  # a link or an unreadable file has no lock that we could ask for
            path.unlink()
            return True
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
