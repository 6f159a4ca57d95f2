"""Data sets without a listing: the files below a folder, or the members of archives in it, as records."""

import fnmatch
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.manifest.listing_reader import Record
from pipelines.manifest.listing_schema import GLOB_FIELDS
from pipelines.sources.archive import ArchiveTable, MemberError, reading
from uniform.errors import ManifestError

MEDIA_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv")
"""What counts as media: inside an archive whose pattern names no members, and where a pattern overlooks it."""
SIDECAR_BYTES = 65_536
"""A text beside a clip is a caption, not a book: the rest is left unread."""
SIDECAR_SUFFIX = ".txt"


def found_files(root: Path, patterns: Sequence[str], sidecars: bool) -> Iterator[Record]:
    """A record for each file below `root` that a pattern matches, in order of their names; hidden ones left out.

    Fields: path, stem, folder (name of the folder it lies in; empty at the root), suffix, sidecar.
    """
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    names = sorted(path.relative_to(root).as_posix() for path in found)
    visible = [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    for number, name in enumerate(visible, start=1):
        yield _record(number, name, PurePosixPath(name), _text_beside(root / name) if sidecars else "")


def skipped_media(root: Path, matched: Collection[str]) -> list[str]:
    """Media files below `root` that are none of `matched`, in order of their names; hidden ones left out."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        media = [name for name in files if name.lower().endswith(MEDIA_SUFFIXES) and not name.startswith(".")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in media]
    return sorted(set(found) - set(matched))


def found_members(root: Path, patterns: Sequence[str], sidecars: bool) -> Iterator[Record]:
    """A record for each member of the archives below `root` that a pattern matches.

    A pattern is one for archives, or one for archives, a '#', and one for members in which * passes folders too:
    "*.zip", "landscape.zip#train/*.mp4". Fields as of `found_files`; path is "archive#member".
    Raises: ManifestError for an archive that cannot be read.
    """
    wanted: dict[Path, list[str]] = {}
    for pattern in patterns:
        archives, _, members = pattern.partition("#")
        for path in root.glob(archives):
            wanted.setdefault(path, []).append(members)
    number = 0
    for archive in sorted(wanted):
        try:
            table = ArchiveTable(archive)
            names = set(table.names())
            for member in sorted(name for name in names if _fits(name, wanted[archive])):
                number += 1
                beside = str(PurePosixPath(member).with_suffix(SIDECAR_SUFFIX))
                text = _text(table, beside) if sidecars and beside in names else ""
                name = f"{archive.relative_to(root).as_posix()}#{member}"
                yield _record(number, name, PurePosixPath(member), text)
        except (MemberError, OSError) as error:
            raise ManifestError(f"{archive}: cannot be read as an archive: {error}") from error


def _record(number: int, name: str, path: PurePosixPath, sidecar: str) -> Record:
    values = (name, path.stem, path.parent.name, path.suffix, sidecar)
    return Record(number, dict(zip(GLOB_FIELDS, values, strict=True)))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts):
        return False
    return any(
        fnmatch.fnmatchcase(name, pattern) if pattern else name.lower().endswith(MEDIA_SUFFIXES) for pattern in patterns
    )


def _text_beside(path: Path) -> str:
    text = path.with_suffix(SIDECAR_SUFFIX)
    if not text.is_file() or text.is_symlink():
        return ""
    with text.open("rb") as file:
        return _decoded(file.read(SIDECAR_BYTES))


def _text(table: ArchiveTable, member: str) -> str:
    with reading(member), table.open(member, largest_bytes=1 << 30) as file:
        return _decoded(file.read(SIDECAR_BYTES))


def _decoded(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace").strip()
