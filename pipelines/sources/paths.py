"""Paths below a dataset's root: looked up under both Unicode spellings, and never outside it."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath


class OutsideRootError(Exception):
    """A path leads out of its dataset's root, by its own text or through a symbolic link."""


class RootFolder:
    """A dataset's folder. Looks paths up below it; real folders are resolved once and remembered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = Path(os.path.realpath(root))
        self._folders: dict[str, str] = {}

    def find(self, relative: str) -> Path | None:
        """The file that `relative` (forward slashes) names, or None where there is none.

        Names are tried as spelt, then in NFC and NFD: listings and disks disagree about accents.
        Raises: OutsideRootError where it is absolute, climbs by "..", or passes a link that leads outside.
        """
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\0" in relative:
            raise OutsideRootError(f"{relative!r} is not a path below {self.root}")
        for spelling in dict.fromkeys((relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD")))):
            candidate = self.root / spelling
            if not os.path.lexists(candidate):
                continue
            if not self._stays_inside(candidate):
                raise OutsideRootError(f"{relative!r} is or passes a link that leads out of {self.root}")
            if candidate.is_file():
                return candidate
        return None

    def _stays_inside(self, path: Path) -> bool:
        if path.is_symlink():
            return Path(os.path.realpath(path)).is_relative_to(self._real_root)
        return Path(self._real_folder(path)).is_relative_to(self._real_root)

    def _real_folder(self, path: Path) -> str:
        folder = str(path.parent)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder]

    def identity(self, path: Path) -> str:
        """A text that is equal for two paths of one file: its real path, or its number where it has several names.

        Args:
            path: a file that `find` gave.
        Raises: OSError.
        """
        status = path.stat()
        if status.st_nlink > 1 and status.st_ino:
            return f"{status.st_dev}:{status.st_ino}"
        if path.is_symlink():
            return os.path.realpath(path)
        return f"{self._real_folder(path)}/{path.name}"


SEPARATOR = "#"
"""Between the path of an archive and the name of a member."""


def split_member(uri: str, find: Callable[[str], Path | None]) -> tuple[Path | None, str, str]:
    """The archive and the member that "archive#member" names; either name may hold '#' itself.

    Args:
        find: the file that a path names, or None.
    Returns: the archive's file, its path, and the member: split at the first '#' before which there is a file, else at
        the first one, without a file.
    Raises: what `find` raises.
    """
    for archive, member in _splits(uri):
        path = find(archive)
        if path is not None:
            return path, archive, member
    archive, _, member = uri.partition(SEPARATOR)
    return None, archive, member


def _splits(uri: str) -> Iterator[tuple[str, str]]:
    place, tried = uri.find(SEPARATOR), 0
    while place >= 0 and tried < 64:
        if uri[:place] and uri[place + 1 :]:
            yield uri[:place], uri[place + 1 :]
        place, tried = uri.find(SEPARATOR, place + 1), tried + 1
