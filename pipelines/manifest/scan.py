"""Datasets without a listing: the files below a folder, or the members of archives in it, as records."""

import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.manifest.cells import CONTROL
from pipelines.manifest.listing_reader import Record
from pipelines.manifest.listing_schema import GLOB_FIELDS, Listing
from pipelines.manifest.sidecars import pair_texts, read_text
from pipelines.manifest.unread import Unread
from pipelines.manifest.walk import is_hidden, is_media, matching_files, walk
from pipelines.sources.archive import ArchiveTable, MemberError, reading
from pipelines.sources.paths import SEPARATOR
from uniform.errors import ManifestError


def found_files(root: Path, form: Listing, unread: Unread) -> Iterator[Record]:
    """A record for each file below `root` that a pattern matches, in order of their names; hidden ones left out.

    Fields: path, stem, folder (name of the folder it lies in; empty at the root), suffix, sidecar.
    """
    tree = walk(root, unread)
    names = [name for name in matching_files(root, form.glob, tree) if _can_be_written(name, unread)]
    texts: Mapping[str, str] = {}
    if "sidecar" in form.wanted_columns():
        sidecars = pair_texts(names, [name for name in tree.files if not (root / name).is_symlink()])
        texts = sidecars.texts
        _count_orphans(sidecars.orphans, "", unread)

    def read(name: str, size: int) -> bytes:
        with (root / name).open("rb") as file:
            return file.read(size)

    for number, name in enumerate(names, start=1):
        text = read_text(texts[name], read, unread) if name in texts else ""
        yield _record(number, name, PurePosixPath(name), text)


def skipped_media(root: Path, matched: Collection[str]) -> list[str]:
    """Media files below `root` that are none of `matched`, in order of their names; hidden ones left out."""
    tree = walk(root, Unread())
    behind_links = set(tree.behind_links)
    return [name for name in tree.files if is_media(name) and name not in matched and name not in behind_links]


def found_members(root: Path, form: Listing, unread: Unread) -> Iterator[Record]:
    """A record for each member of the archives below `root` that a pattern matches.

    A pattern is one for archives, or one for archives, a '#', and one for members in which * passes folders too:
    "*.zip", "landscape.zip#train/*.mp4". Fields as of `found_files`; path is "archive#member".
    Raises: ManifestError for an archive that cannot be read, unless `form.on_problem` is "drop".
    """
    number = 0
    for archive, patterns in sorted(_archives(root, form.glob).items()):
        name = archive.relative_to(root).as_posix()
        try:
            for member, folder, identity, text in _members(archive, patterns, form, unread):
                number += 1
                path = PurePosixPath(member)
                yield _record(number, f"{name}{SEPARATOR}{member}", path, text, folder, identity)
        except (MemberError, OSError) as error:
            if form.on_problem == "error":
                raise ManifestError(f"{archive}: cannot be read as an archive: {error}") from error
            unread.add("bad_archive", name, str(error))


def _archives(root: Path, patterns: Sequence[str]) -> dict[Path, list[str]]:
    """Archive -> patterns of its members. The part of a pattern before '#' is the shortest that matches a file."""
    wanted: dict[Path, list[str]] = {}
    for pattern in patterns:
        places = [place for place, character in enumerate(pattern) if character == SEPARATOR and place]
        for place in (*places, len(pattern)):
            found = [path for path in root.glob(pattern[:place]) if path.is_file()]
            for path in found:
                wanted.setdefault(path, []).append(pattern[place + 1 :])
            if found:
                break
    return wanted


def _members(
    archive: Path, patterns: Sequence[str], form: Listing, unread: Unread
) -> Iterator[tuple[str, str | None, str | None, Any]]:
    """(member, label beside its name, identity, text) of each member that fits."""
    table = ArchiveTable(archive)
    names = set(table.names())
    unread.notes += [(str(archive), note) for note in table.notes]
    for member, what in table.refused.items():
        if _fits(member, patterns, Unread()):
            unread.add("refused_member", f"{archive.name}{SEPARATOR}{member}", what)
    members = [name for name in sorted(names) if _fits(name, patterns, unread) and _can_be_written(name, unread)]
    texts: Mapping[str, str] = {}
    if "sidecar" in form.wanted_columns():
        sidecars = pair_texts(members, names)
        texts = sidecars.texts
        _count_orphans(sidecars.orphans, f"{archive.name}{SEPARATOR}", unread)
    read = _reader(table)
    for member in members:
        text = read_text(texts[member], read, unread) if member in texts else ""
        identity = table.identity(member)
        yield member, table.folder(member), None if identity is None else f"{archive.resolve()}#{identity}", text


def _reader(table: ArchiveTable) -> Callable[[str, int], bytes]:
    def read(member: str, size: int) -> bytes:
        with reading(member), table.open(member, largest_bytes=1 << 30) as file:
            return file.read(size)

    return read


def _record(
    number: int, name: str, path: PurePosixPath, text: Any, folder: str | None = None, identity: str | None = None
) -> Record:
    values = (name, path.stem, path.parent.name if folder is None else folder, path.suffix, text)
    return Record(number, dict(zip(GLOB_FIELDS, values, strict=True)), identity)


def _fits(name: str, patterns: Sequence[str], unread: Unread) -> bool:
    parts = PurePosixPath(name).parts
    wanted = any(fnmatch.fnmatchcase(name, pattern) if pattern else is_media(name) for pattern in patterns)
    if wanted and ".." in parts:
        unread.add("outside_member", name)
    return wanted and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _can_be_written(name: str, unread: Unread) -> bool:
    """Whether a name is text that tables and listings can hold; otherwise it is counted."""
    if CONTROL.search(name):
        unread.add("bad_name", name)
        return False
    return True


def _count_orphans(orphans: Collection[str], before: str, unread: Unread) -> None:
    for name in orphans:
        if not is_hidden(name):
            unread.add("orphan_text", f"{before}{name}")
