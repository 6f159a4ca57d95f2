"""Checks that a fetched file is media and complete, by its first bytes and outermost structure; nothing is decoded."""

from pathlib import Path

from pipelines.fetching.base import FetchError
from pipelines.fetching.messages import code_of_page
from uniform.errors import MediaError
from uniform.media.boxes import refuse_damaged_structure

HEAD_BYTES = 8_192
SMALLEST_BYTES = 1_024
"""A smaller file holds headers, but no video and audio."""
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<script", b'{"', b"[{")
"""First bytes of content that is not media, whatever its server calls it."""
MAGIC = (
    (4, (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),  # MP4, MOV, 3GP
    (0, (b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"GIF8")),
    (0, (b"\x30\x26\xb2\x75", b"\x06\x0e\x2b\x34", b"G", b".RMF", b"DKIF", b"nut/multimedia")),
)
"""(offset, first bytes there) of common containers: MP4, Matroska, AVI, FLV, Ogg, MPEG, ASF, MXF, TS and more."""


def check_media(path: Path, *, whole: bool, coding: str | None = None) -> None:
    """Check a file whose download ended without an error.

    Args:
        whole: all promised bytes are here, so what is missing is missing at the source too.
        coding: content coding that the server named although none was asked for; the first bytes show whether it holds.
    Raises: FetchError: empty_file, not_media, encrypted; truncated for a whole file that is damaged, otherwise
        incomplete, which is worth another attempt; the code of a robot check or an outage for such a page;
        bad_response for encoded content.
    """
    size = path.stat().st_size
    if size == 0:
        raise FetchError("empty_file", "the file is empty")
    with path.open("rb") as file:
        raw = file.read(HEAD_BYTES)
    if coding is not None and not any(raw[offset:].startswith(magic) for offset, magic in MAGIC):
        raise FetchError("bad_response", f"content encoded as {coding}, which was not asked for")
    head = raw.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(PAGES):
        code = code_of_page(head)
        found = f"the content is a page or a message: {head[:40]!r}"
        raise FetchError(code or "not_media", f"{found}, a robot check or an outage" if code else found)
    if size < SMALLEST_BYTES:
        raise FetchError("truncated" if whole else "incomplete", f"{size:,} bytes hold no clip")
    try:
        refuse_damaged_structure(path)
    except MediaError as error:
        code = "incomplete" if error.code == "truncated" and not whole else error.code
        raise FetchError(code, error.reason) from error
