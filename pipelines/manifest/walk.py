"""The files below a folder that patterns match; what cannot be read there is counted."""

import fnmatch
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.manifest.unread import Unread

MEDIA_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv")
"""What counts as media: inside an archive whose pattern names no members, and files that no pattern matches."""
COUNTED_FILES = 100_000
"""Files behind a link out of the root that are counted at most."""


@dataclass
class Tree:
    """Visible files below a folder."""

    files: list[str] = field(default_factory=list)
    """Names of plain files, with forward slashes, sorted."""
    behind_links: list[str] = field(default_factory=list)
    """Those of them that only a linked folder inside the root leads to."""


def walk(root: Path, unread: Unread) -> Tree:
    """All visible plain files below `root`. Folders behind links are entered once, where they lie inside the root."""
    tree, links, seen = Tree(), list[str](), set[str]()
    real_root = os.path.realpath(root)
    _walk_folder(root, "", tree.files, links, seen, unread)
    while links:
        name = links.pop()
        real = os.path.realpath(root / name)
        if not Path(real).is_relative_to(real_root):
            unread.add("linked_folder", name, f"{_media_count(real):,} media files there")
        elif real not in seen:
            before = len(tree.files)
            _walk_folder(root, name, tree.files, links, seen, unread)
            tree.behind_links += tree.files[before:]
    tree.files.sort()
    return tree


def _walk_folder(root: Path, name: str, files: list[str], links: list[str], seen: set[str], unread: Unread) -> None:
    """Add the files of a folder and of the real folders in it; links to folders are put into `links`."""
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(root / folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            unread.add("closed_folder", folder or ".", error.strerror or "")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_symlink() and _is_folder(entry):
                links.append(path)
            else:
                _take_file(path, entry, files, unread)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _take_file(path: str, entry: "os.DirEntry[str]", files: list[str], unread: Unread) -> None:
    try:
        mode = entry.stat().st_mode
    except OSError:
        if is_media(path):
            unread.add("dead_link", path)
        return
    if stat.S_ISREG(mode):
        files.append(path)
    elif is_media(path):
        unread.add("no_plain_file", path)


def _media_count(folder: str) -> int:
    counted = media = 0
    for _, _, files in os.walk(folder):
        media += sum(is_media(name) for name in files)
        counted += len(files)
        if counted > COUNTED_FILES:
            break
    return media


def is_media(name: str) -> bool:
    """Whether a name has the suffix of a media file."""
    return name.lower().endswith(MEDIA_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def matching_files(root: Path, patterns: Sequence[str], tree: Tree) -> list[str]:
    """Names of the visible plain files that one of the patterns matches, sorted; `**` stands for any folders."""
    found = {path for pattern in patterns for path in root.glob(_collapsed(pattern)) if path.is_file()}
    names = {path.relative_to(root).as_posix() for path in found}
    parts = [PurePosixPath(_collapsed(pattern)).parts for pattern in patterns]
    names |= {name for name in tree.behind_links if any(_fits(PurePosixPath(name).parts, part) for part in parts)}
    return sorted(name for name in names if not is_hidden(name))


def _collapsed(pattern: str) -> str:
    """The pattern without repeated `**`, which would search the same folders again and again."""
    return re.sub(r"(?:\*\*/+)+", "**/", pattern)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern, part by part."""
    reachable = {0}
    for part in parts:
        following = set()
        for place in _with_empty_stars(reachable, pattern):
            if place < len(pattern) and pattern[place] == "**":
                following.add(place)
            elif place < len(pattern) and fnmatch.fnmatchcase(part, pattern[place]):
                following.add(place + 1)
        reachable = following
    return len(pattern) in reachable


def _with_empty_stars(places: set[int], pattern: tuple[str, ...]) -> set[int]:
    """The places, and those behind a `**` at them, which may stand for no folder."""
    found = set(places)
    for place in places:
        while place < len(pattern) and pattern[place] == "**":
            place += 1
            found.add(place)
    return found
