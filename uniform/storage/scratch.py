"""Scratch space on the local disk: bounded, owned by one process, removed when that process has died.

Each process has a folder with a lock file that it holds while it lives. Whoever opens scratch space removes the
folders whose lock nobody holds. Results that could not be sent are moved aside and never removed.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from uniform.errors import StorageError

LOCK_NAME = "owner.lock"
UNSENT = "unsent"
"""Folder of results that could not be sent to their place."""
RESERVE_BYTES = 256 << 20
"""Free space of the disk that scratch files leave for others."""


def default_scratch_folder() -> Path:
    """$UNIFORM_SCRATCH, or uniform-scratch-UID below the system's folder for temporary files."""
    chosen = os.environ.get("UNIFORM_SCRATCH")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"uniform-scratch-{os.getuid()}"


class Scratch:
    """Scratch space of this process. Use it as a context manager: its files go when the block ends."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        """Open scratch space, and remove what dead processes left.

        Args:
            root: folder that all processes of this machine share; None is `default_scratch_folder()`.
            limit_bytes: most bytes that this process reserves; None is the disk's free space.
        Raises: StorageError where the folder cannot be written.
        """
        self.root = root or default_scratch_folder()
        self.limit_bytes, self._reserved, self._guard = limit_bytes, 0, threading.Lock()
        self.folder = self.root / f"{os.getpid()}-{uuid.uuid4().hex}"
        """Folder of this process."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._require_own()
            with FileLock(self.root / "cleaning.lock"):
                clean(self.root)
                self.folder.mkdir(mode=0o700)
                self._lock = FileLock(self.folder / LOCK_NAME)
                self._lock.acquire(timeout=0)
        except OSError as error:
            raise StorageError(
                f"{self.root}: scratch space cannot be made ({error.strerror}). Set UNIFORM_SCRATCH to another folder."
            ) from error

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _require_own(self) -> None:
        """Refuse a folder in a directory for everybody that another user has made in our name."""
        if self.root == default_scratch_folder() and "UNIFORM_SCRATCH" not in os.environ:
            owner = self.root.stat().st_uid
            if owner != os.getuid():
                raise StorageError(
                    f"{self.root}: belongs to user {owner}, not to this one. Set UNIFORM_SCRATCH to a folder of yours."
                )

    @contextlib.contextmanager
    def space(self, size_bytes: int = 0) -> Iterator[Path]:
        """An empty folder for at most about `size_bytes`; removed when the block ends.

        Raises: StorageError where the limit or the disk has no room.
        """
        with self._guard:
            free = shutil.disk_usage(self.folder).free - RESERVE_BYTES
            room = free if self.limit_bytes is None else min(free, self.limit_bytes - self._reserved)
            if size_bytes > room:
                raise StorageError(
                    f"{self.root}: {size_bytes:,} bytes of scratch space are wanted, {max(room, 0):,} are left. Free "
                    f"the disk, or set UNIFORM_SCRATCH to a folder of a larger one."
                )
            self._reserved += size_bytes
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._guard:
                self._reserved -= size_bytes

    def keep(self, folder: Path) -> Path:
        """Move a folder of results aside, where no cleaning removes it. Returns: its new path."""
        kept = self.root / UNSENT / uuid.uuid4().hex
        kept.parent.mkdir(exist_ok=True)
        folder.rename(kept)
        return kept


def clean(root: Path) -> list[Path]:
    """Remove the folders of processes that have died. Returns: the removed folders."""
    removed = []
    for folder in sorted(root.iterdir()):
        if folder.name == UNSENT or not folder.is_dir() or folder.is_symlink():
            continue
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # its owner lives
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        removed.append(folder)
    return removed
