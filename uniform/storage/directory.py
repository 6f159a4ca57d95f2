"""One interface over a directory of files, on a local disk or on an object store.

A file is published whole under its final name, or not at all. A small file can be created only if it is absent, which
is how results of a unit begin to count exactly once.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from uniform.atomic import TEMPORARY_PREFIX, replacing, sync, write_bytes
from uniform.errors import StorageError
from uniform.storage.address import checked_name


@dataclass(frozen=True)
class Entry:
    """A file of a directory."""

    name: str
    """Relative to the directory, with "/" between its parts."""
    size: int
    """Bytes."""
    version: str = ""
    """Differs between versions of the file; empty where the store has none."""


class Directory(Protocol):
    """Files under one place. Names are relative, with "/" between their parts. Prints as its place."""

    def entry(self, name: str) -> Entry | None:
        """Size and version of a file; None where it is not there."""
        ...

    def entries(self, prefix: str = "") -> list[Entry]:
        """All files whose names begin with `prefix`, at any depth, sorted by name."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a file, or to its end. Raises: StorageError, RemoteError."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file for reading by any range; the caller closes it. Raises: StorageError, RemoteError."""
        ...

    def publish(self, file: Path, name: str) -> Entry:
        """Copy a local file to `name`; it appears whole or not at all, and an older one is replaced."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """As `publish`, from memory."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless the name is taken. Let its content name its maker.

        Returns: False where other content has the name. On a store, the same content counts as made by this call.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; names that are not there are accepted."""
        ...


class LocalDirectory:
    """A `Directory` on a local or shared POSIX disk. Made when the first file is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def entry(self, name: str) -> Entry | None:
        """See `Directory`."""
        try:
            found = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, found.st_size, f"mtime {found.st_mtime_ns}")

    def entries(self, prefix: str = "") -> list[Entry]:
        """See `Directory`. Files of unfinished writes, and links to folders, are left out."""
        names = (name for name in self._names() if name.startswith(prefix))
        return [entry for entry in (self.entry(name) for name in sorted(names)) if entry is not None]

    def _names(self) -> Iterator[str]:
        for folder, below, files in os.walk(self.folder):
            below[:] = [name for name in below if not name.startswith(TEMPORARY_PREFIX)]
            for file in files:
                if not file.startswith(TEMPORARY_PREFIX):
                    yield (Path(folder) / file).relative_to(self.folder).as_posix()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Directory`."""
        with self.open(name) as file:
            file.seek(start)
            content = file.read() if stop is None else file.read(stop - start)
        if stop is not None and len(content) != stop - start:
            raise StorageError(
                f"{self._path(name)}: bytes {start} to {stop} were requested, only {len(content)} are there. "
                f"The file is shorter than expected: restore it."
            )
        return content

    def open(self, name: str) -> IO[bytes]:
        """See `Directory`."""
        try:
            return self._path(name).open("rb")
        except OSError as error:
            raise StorageError(f"{self._path(name)}: cannot be read ({error.strerror}). Check the path.") from error

    def publish(self, file: Path, name: str) -> Entry:
        """See `Directory`."""
        path = self._path(name)
        with self._explained(path), replacing(path) as temporary:
            shutil.copyfile(file, temporary)
            if temporary.stat().st_size != file.stat().st_size:
                raise StorageError(f"{file}: changed while it was copied to {path}. Publish finished files only.")
        return Entry(name, path.stat().st_size)

    def write(self, name: str, content: bytes) -> None:
        """See `Directory`."""
        with self._explained(self._path(name)):
            write_bytes(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Directory`. A link gives a name to the finished file; it fails where the name is taken."""
        path = self._path(name)
        with self._explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}")
            try:
                temporary.write_bytes(content)
                sync(temporary)
                os.link(temporary, path)
                sync(path.parent)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def delete(self, names: Iterable[str]) -> None:
        """See `Directory`. Folders that become empty are removed too."""
        for name in names:
            path = self._path(name)
            with self._explained(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in path.relative_to(self.folder).parents:
                with contextlib.suppress(OSError):  # not empty
                    if folder != Path():
                        (self.folder / folder).rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / checked_name(name)

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror or error}). Check folder and disk."
            ) from error
