"""Local sources: found below the dataset's root, hashed, and left where they are."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.sources.paths import OutsideRootError, RootFolder

REMEMBERED = 1_024
"""Files whose digest is cached: clips of one long video come in no fixed order."""


class LocalFetcher:
    """Returns local files themselves, never copies.

    Args:
        roots: dataset -> folder that its paths are relative to.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self._folders = {name: RootFolder(root.absolute()) for name, root in roots.items()}
        self._digests: dict[tuple[str, int, int], str] = {}

    def fetch(self, row: Row) -> Fetched:
        """The row's file. Raises FetchError: missing_source, outside_root, unreadable_source."""
        if row.dataset not in self._folders:
            raise FetchError("missing_source", f"the run has no folder of dataset '{row.dataset}'")
        folder = self._folders[row.dataset]
        try:
            path = folder.find(row.source_uri)
            if path is None:
                raise FetchError("missing_source", f"no file {row.source_uri!r} below {folder.root}")
            size_bytes, sha256 = self._measured(path)
        except OutsideRootError as error:
            raise FetchError("outside_root", str(error)) from error
        except OSError as error:
            raise FetchError("unreadable_source", f"{row.source_uri!r}: {error.strerror or error}") from error
        return Fetched(path, size_bytes, sha256)

    def _measured(self, path: Path) -> tuple[int, str]:
        """(bytes, SHA-256) of a file; the digest is cached until the size or the time of the file changes."""
        # O_NONBLOCK: a named pipe that came after the look-up must not hold the worker.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            metadata = os.fstat(file.fileno())
            key = (str(path), metadata.st_size, metadata.st_mtime_ns)
            if key not in self._digests:
                if len(self._digests) >= REMEMBERED:
                    self._digests.pop(next(iter(self._digests)))
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
            return metadata.st_size, self._digests[key]
