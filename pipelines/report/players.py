"""Players of the report: kept clips, and clips of each drop code that were dropped after they had been cut."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from pipelines.run.clip_files import ClipFiles

KEPT_PLAYERS = 8
DROPPED_PLAYERS = 3
"""For each code."""
PAGE_BYTES = 12 * 2**20
"""Clips of all players together: the page is one file, small enough to send."""


@dataclass(frozen=True, kw_only=True)
class Player:
    """The player of one clip."""

    clip_id: str
    code: str
    text: str
    """Labels or caption of a kept clip, the drop reason of a dropped one."""
    clip_url: str
    """The clip's file as a data: URL."""
    poster_url: str | None
    """One frame as a data: URL; None where the clip cannot be decoded."""


def players(clip_files: ClipFiles, groups: Sequence[tuple[int, Iterable[tuple[str, str, str]]]]) -> list[Player]:
    """Players of the first clips of each group that have a clip file, until the page is full.

    Args:
        groups: (most players, clips as (clip id, code, text)).
    """
    found: list[Player] = []
    bytes_left = PAGE_BYTES
    for most, clips in groups:
        files = ((clip_id, code, text, clip_files.read(clip_id)) for clip_id, code, text in clips)
        for clip_id, code, text, mp4 in islice((one for one in files if one[3] is not None), most):
            bytes_left -= len(mp4 or b"")
            if mp4 is None or bytes_left < 0:
                return found
            clip_url = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
            poster_url = next(iter(clip_files.thumbnails(mp4)), None)
            found.append(Player(clip_id=clip_id, code=code, text=text, clip_url=clip_url, poster_url=poster_url))
    return found
