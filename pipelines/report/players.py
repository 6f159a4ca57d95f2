"""Clips to look at and listen to on the report: some that stayed, and some of each reason to leave after that."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from pipelines.run.clip_files import ClipFiles

KEPT_PLAYERS = 8
LEFT_PLAYERS = 3
"""For each code."""
PAGE_BYTES = 12 * 2**20
"""All players together; the page is one file that can be sent to somebody."""


@dataclass(frozen=True, kw_only=True)
class Player:
    """One clip."""

    clip_id: str
    code: str
    words: str
    """Labels or caption of a clip that stayed, the reason of one that left."""
    film: str
    """The clip's file inside an address."""
    poster: str | None
    """A frame of it, likewise; None where it cannot be read."""


def players(clip_files: ClipFiles, groups: Sequence[tuple[int, Iterable[tuple[str, str, str]]]]) -> list[Player]:
    """Players of the first clips of each group, as far as they were cut and the page has room.

    Args:
        groups: (most players, clips as (clip id, code, words)).
    """
    found: list[Player] = []
    room = PAGE_BYTES
    for most, clips in groups:
        cut = ((clip_id, code, words, clip_files.read(clip_id)) for clip_id, code, words in clips)
        for clip_id, code, words, film in islice((one for one in cut if one[3] is not None), most):
            room -= len(film or b"")
            if film is None or room < 0:
                return found
            address = f"data:video/mp4;base64,{base64.b64encode(film).decode()}"
            poster = next(iter(clip_files.thumbnails(film)), None)
            found.append(Player(clip_id=clip_id, code=code, words=words, film=address, poster=poster))
    return found
