"""Is a fetched file media at all, and whole? Told by its first bytes and its outermost structure; no decoder is run."""

from pathlib import Path

from pipelines.fetching.base import FetchError
from uniform.errors import MediaError
from uniform.media.boxes import refuse_damaged_structure

HEAD_BYTES = 512
SMALLEST_BYTES = 1_024
"""Less holds headers, but no picture and sound."""
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b'{"', b"[{")
"""How content begins that is no media, whatever its server calls it."""


def check_media(path: Path, *, whole: bool) -> None:
    """Judge a file whose download is said to have ended well.

    Args:
        whole: every byte that was promised has come: what is missing now is missing at the source too.
    Raises: FetchError: empty_file, not_media, encrypted; truncated for a whole file that is damaged, otherwise
        incomplete, which is worth another attempt.
    """
    size = path.stat().st_size
    if size == 0:
        raise FetchError("empty_file", "the file is empty")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(PAGES):
        raise FetchError("not_media", f"the content is a page or a message: {head[:40]!r}")
    if size < SMALLEST_BYTES:
        raise FetchError("truncated" if whole else "incomplete", f"{size:,} bytes hold no clip")
    try:
        refuse_damaged_structure(path)
    except MediaError as error:
        code = "incomplete" if error.code == "truncated" and not whole else error.code
        raise FetchError(code, error.reason) from error
