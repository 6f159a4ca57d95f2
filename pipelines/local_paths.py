"""Files below a data set's root: found, looked up under both Unicode spellings, and never outside it."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.listing_form import GLOB_FIELDS
from pipelines.listing_text import Record

SIDECAR_BYTES = 65_536
"""A text beside a clip is a caption, not a book: the rest is left unread."""


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


def found_files(root: Path, patterns: Sequence[str]) -> Iterator[Record]:
    """A record for each file below `root` that a pattern matches, in order of their names; hidden ones left out.

    Fields: path, stem, folder (name of the folder it lies in; empty at the root), suffix, sidecar.
    """
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    relative = sorted(path.relative_to(root).as_posix() for path in found)
    visible = [name for name in relative if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    for number, name in enumerate(visible, start=1):
        pure = PurePosixPath(name)
        values = (name, pure.stem, pure.parent.name, pure.suffix, _sidecar(root / name))
        yield Record(number, dict(zip(GLOB_FIELDS, values, strict=True)))


def _sidecar(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.is_file() or text.is_symlink():
        return ""
    with text.open("rb") as file:
        return file.read(SIDECAR_BYTES).decode("utf-8-sig", errors="replace").strip()
