"""The file of a clip's source: found wherever the run directory is now, and compared with what was fetched."""

from pathlib import Path

from pipelines.clip import Clip
from uniform.errors import MediaError
from uniform.fingerprint import file_sha256

NEEDS = ("source", "source_bytes", "source_sha256")
"""Fields that a stage needs to use `SourceFiles`."""
SOURCES = "sources"
"""Folder of fetched sources in a run directory."""
CACHED_DIGESTS = 1_024
"""Files whose digest is cached: the clips of one long video follow each other in no fixed order."""


def stored_path(path: Path, folder: Path) -> str:
    """`path` as an artifact of the run in `folder` keeps it: relative where it lies in the run, else absolute.

    A run that is moved or copied then finds its own sources.
    """
    root = folder.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


class SourceFiles:
    """Finds the sources of clips for one worker.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._digests: dict[tuple[str, int, int, int], str] = {}

    def find(self, clip: Clip) -> Path:
        """The clip's source. Raises MediaError `changed` where its bytes are not those that were fetched.

        A file that is missing is found out by whoever opens it.
        """
        path = self._path(str(clip["source"]))
        wanted_bytes, wanted_sha256 = (clip.fields.get(name) for name in NEEDS[1:])
        try:
            found = path.stat()
        except OSError:
            return path
        if wanted_bytes is not None and found.st_size != wanted_bytes:
            raise MediaError("changed", f"the source has {found.st_size:,} bytes; {wanted_bytes:,} were fetched")
        if wanted_sha256 is not None:
            sha256 = self._sha256(path, (str(path), found.st_size, found.st_mtime_ns, found.st_ino))
            if sha256 != wanted_sha256:
                raise MediaError("changed", f"the source's SHA-256 is {sha256}; {wanted_sha256} was fetched")
        return path

    def _path(self, source: str) -> Path:
        """Where a source is that an artifact names: runs of version 0.3.0 name their own sources by absolute paths."""
        path = Path(source)
        if not path.is_absolute():
            if ".." in path.parts:
                raise MediaError("changed", f"the source {source!r} leads out of the run directory: it was altered")
            return self._folder / path
        if path.parts[-3:-2] == (SOURCES,):
            ours = self._folder.joinpath(*path.parts[-3:])
            if ours.is_file():
                return ours
        return path

    def _sha256(self, path: Path, key: tuple[str, int, int, int]) -> str:
        if key not in self._digests:
            if len(self._digests) >= CACHED_DIGESTS:
                self._digests.pop(next(iter(self._digests)))
            try:
                self._digests[key] = file_sha256(path)
            except OSError as error:
                raise MediaError("unreadable_source", f"{path.name}: {error.strerror or error}") from error
        return self._digests[key]
