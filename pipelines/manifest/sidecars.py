"""Texts beside videos: which file or member belongs to which video, and what it says.

`dog/1.txt` belongs to `dog/1.mp4`. In WebDataset's way of naming, a sample's key is the name up to its first dot:
`00001.caption.txt` and `00001.json` belong to `00001.video.mp4`, where the key has one video.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.manifest.diagnostics import quoted
from pipelines.manifest.unread import Unread
from pipelines.manifest.values import Unreadable, decoded
from uniform.untrusted_json import read_untrusted_json

SIDECAR_BYTES = 65_536
"""A text beside a clip is a caption, not a book: the rest is left unread."""
JSON_BYTES = 1 << 20
TEXT_SUFFIX, JSON_SUFFIX = ".txt", ".json"
JSON_KEYS = ("caption", "text", "prompt")
_SUBTITLES = re.compile(r"[0-9]{2}:[0-9]{2}[,.][0-9]{3} +--> +[0-9]{2}:")

Read = Callable[[str, int], bytes]
"""(name, bytes to read) -> content. Raises OSError or MemberError."""


@dataclass(frozen=True)
class Sidecars:
    """Texts of a folder or an archive."""

    texts: Mapping[str, str]
    """Video -> its .txt or .json."""
    orphans: list[str]
    """Texts that belong to no video."""


def pair_texts(videos: Collection[str], names: Collection[str]) -> Sidecars:
    """The text of each of `videos` among `names`; a .txt comes before a .json."""
    texts = sorted(name for name in names if name.lower().endswith((TEXT_SUFFIX, JSON_SUFFIX)))
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for text in texts:
        by_key[_key(text)].append(text)
    videos_of_key: defaultdict[str, int] = defaultdict(int)
    for video in videos:
        videos_of_key[_key(video)] += 1
    found: dict[str, str] = {}
    known = set(texts)
    for video in videos:
        exact = [str(PurePosixPath(video).with_suffix(suffix)) for suffix in (TEXT_SUFFIX, JSON_SUFFIX)]
        keyed = by_key[_key(video)] if videos_of_key[_key(video)] == 1 else []
        choices = [text for text in exact[:1] if text in known]
        choices += [text for text in keyed if text.lower().endswith(TEXT_SUFFIX)]
        choices += [text for text in (*exact[1:], *keyed) if text in known and text.lower().endswith(JSON_SUFFIX)]
        if choices:
            found[video] = choices[0]
    used = set(found.values())
    keys = {_key(video) for video in found}
    orphans = [text for text in texts if text not in used and _key(text) not in keys and _is_text(text)]
    return Sidecars(found, orphans)


def read_text(name: str, read: Read, unread: Unread) -> Any:
    """What the text called `name` says: text, a list of texts from JSON, or `Unreadable`; empty where it has none."""
    if name.lower().endswith(JSON_SUFFIX):
        try:
            value = read_untrusted_json(read(name, JSON_BYTES + 1), max_bytes=JSON_BYTES)
        except ValueError as error:
            return Unreadable(f"{quoted(name)}: {error}", "a JSON object", "Correct the file.")
        for key in JSON_KEYS if isinstance(value, dict) else ():
            if value.get(key):
                return value[key]
        unread.add("bad_json", name)
        return ""
    content = read(name, SIDECAR_BYTES)
    try:
        text = decoded(content, whole=len(content) < SIDECAR_BYTES).strip()
    except ValueError as error:
        return Unreadable(f"{quoted(name)}: {error}", "text in UTF-8", "Save the file as UTF-8.")
    if _SUBTITLES.search(text[:400]):
        return Unreadable(f"{quoted(name)}: subtitles", "a caption", "Rename the file to .srt, or write a caption.")
    return text


def _is_text(name: str) -> bool:
    return name.lower().endswith(TEXT_SUFFIX)


def _key(name: str) -> str:
    """A WebDataset key: the folder, and the name up to its first dot."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.split('.', 1)[0]}"
