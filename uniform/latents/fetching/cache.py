"""A bounded folder of fetched files that the processes of one machine share.

    <folder>/<version>/...        one folder per version of a remote folder (uniform/latents/shards/remote.py)
    <folder>/room.lock            locked while files are removed; its text is the bytes in use, never too few
    <folder>/locks/00 .. ff       locked while a file is fetched, so that two processes do not both fetch it

Files are written atomically. The space of a file is reserved before its first byte arrives. Files that the run needs
last are removed first; a process that has mapped a file keeps its bytes. Locks end with their process.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from uniform.atomic import TEMPORARY_PREFIX, replacing
from uniform.errors import RemoteError
from uniform.latents.format import CARD_NAME, INDEX_NAME

SPARE = 16
"""Removing files frees 1 / SPARE of the limit at once, because listing a folder of many files is slow."""

NextUse = Callable[[Sequence[str]], npt.NDArray[np.float64]]
"""Paths below a version's folder to the global position at which each is needed next; infinity where it never is."""


class Cache:
    """At most `limit_bytes` of fetched files; index and card of each version are not counted."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._next_use: list[tuple[Path, NextUse]] = []

    def add_folder(self, folder: Path, next_use: NextUse) -> None:
        """Order the removal of files below `folder` by `next_use`. Files of other folders are removed first."""
        self._next_use.append((folder, next_use))

    def obtain(self, path: Path, size: int, fill: Callable[[IO[bytes]], None]) -> None:
        """Return when `path` is in the cache; fetch it if it is not.

        Args:
            path: below the cache's folder.
            size: its bytes.
            fill: writes the content into an open file of that size; called unless the file exists.
        Raises: RemoteError where the limit or the disk is too small; whatever `fill` raises.
        """
        stripe = self.folder / "locks" / hashlib.sha256(os.fsencode(path)).hexdigest()[:2]
        try:
            with _locked(stripe), ExitStack() as kept:
                if path.exists():
                    return
                with replacing(path) as temporary:  # still open, and so locked, when it is renamed
                    file = kept.enter_context(self._reserved(temporary, size))
                    fill(file)
                    file.flush()
        except OSError as error:
            raise RemoteError(
                f"{self.folder}: cannot be written ({error.strerror or error}). Free space on that disk, lower "
                f"data.cache_bytes ({self.limit_bytes:,}), or choose another data.cache_folder."
            ) from error

    def trim(self) -> None:
        """Remove partial files of dead processes, and files beyond the limit."""
        with _locked(self.folder / "room.lock") as lock:
            _write_number(lock, self._make_room(0))

    def scan(self) -> list[tuple[Path, int]]:
        """All files that count towards the limit, with their bytes."""
        found = []
        for folder, _, names in os.walk(self.folder):
            if folder == str(self.folder) or Path(folder) == self.folder / "locks":
                continue
            for name in names:
                if name in (INDEX_NAME, CARD_NAME) or name.endswith((f"-{INDEX_NAME}", f"-{CARD_NAME}")):
                    continue
                path = Path(folder, name)
                try:
                    found.append((path, path.stat().st_size))
                except FileNotFoundError:  # renamed or removed since the folder was read
                    continue
        return found

    @contextmanager
    def _reserved(self, temporary: Path, size: int) -> Iterator[IO[bytes]]:
        """The new file with its space reserved, locked while it is open: a file without a lock is of a dead process."""
        with ExitStack() as kept:
            with _locked(self.folder / "room.lock") as lock:
                file = kept.enter_context(temporary.open("w+b"))
                fcntl.flock(file, fcntl.LOCK_EX)
                taken = _read_number(lock)
                if taken is None or taken + size > self.limit_bytes:
                    taken = self._make_room(size)
                os.truncate(temporary, size)
                _write_number(lock, taken + size)
            yield file

    def _make_room(self, size: int) -> int:
        """Remove files until `size` bytes more fit, those needed last first. Returns the bytes that remain."""
        files = [entry for entry in self.scan() if not _remove_if_dead(entry[0])]
        taken = sum(length for _, length in files)
        if taken + size <= self.limit_bytes:
            return taken
        wanted = max(0, self.limit_bytes - size - self.limit_bytes // SPARE)
        removable = [entry for entry in files if not entry[0].name.startswith(TEMPORARY_PREFIX)]
        needed = self._needed([path for path, _ in removable])
        for number in np.argsort(-needed, kind="stable").tolist():
            if taken <= wanted:
                break
            path, length = removable[number]
            path.unlink(missing_ok=True)
            taken -= length
        if taken + size > self.limit_bytes:
            raise RemoteError(
                f"{self.folder}: a file of {size:,} bytes does not fit beside {taken:,} bytes that are being fetched; "
                f"data.cache_bytes is {self.limit_bytes:,}. Raise it."
            )
        return taken

    def _needed(self, paths: Sequence[Path]) -> npt.NDArray[np.float64]:
        """Global position at which each file is needed next; infinity where it is unknown."""
        needed = np.full(len(paths), np.inf)
        for folder, next_use in self._next_use:
            mine = [number for number, path in enumerate(paths) if path.is_relative_to(folder)]
            names = [paths[number].relative_to(folder).as_posix() for number in mine]
            needed[mine] = np.minimum(needed[mine], next_use(names))
        return needed


def _remove_if_dead(path: Path) -> bool:
    """Remove a partial file whose process has ended. Returns: True where it was one."""
    if not path.name.startswith(TEMPORARY_PREFIX):
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file under an exclusive lock, released at the end of the block or of the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _read_number(handle: int) -> int | None:
    text = os.pread(handle, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _write_number(handle: int, number: int) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(number).encode(), 0)
