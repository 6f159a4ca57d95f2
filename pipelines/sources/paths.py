"""Paths below a data set's root: looked up under both Unicode spellings, and never outside it."""

import os
import unicodedata
from pathlib import Path, PurePosixPath


class OutsideRootError(Exception):
    """A path leads out of its data set's root, by its own text or through a symbolic link."""


class RootFolder:
    """A data set's folder. Looks paths up below it; real folders are resolved once and remembered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = Path(os.path.realpath(root))
        self._folders: dict[str, bool] = {}

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
        folder = str(path.parent)
        if folder not in self._folders:
            self._folders[folder] = Path(os.path.realpath(folder)).is_relative_to(self._real_root)
        return self._folders[folder]
