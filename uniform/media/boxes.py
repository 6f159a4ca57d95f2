"""Check the outermost structure of MP4, Matroska and RIFF files for truncation and encryption, without a decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from uniform.errors import MediaError

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex"}
"""Boxes that contain the boxes of the sample descriptions."""
TOP_LEVEL = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"uuid", b"pdin"}
ENCRYPTED_ENTRIES = (b"encv", b"enca")
"""Sample entries of Common Encryption (ISO/IEC 23001-7)."""
EBML_HEADER, MATROSKA_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
STREAMED_RIFF = 0x7FFF_0000
"""Writers that cannot seek back write a length of this value or more."""
HEAD_BYTES = 4096
MAX_BOXES = 10_000
MAX_ENTRIES_BYTES = 1 << 16


@dataclass(frozen=True)
class Box:
    """One box: its name and its byte range, header included."""

    name: bytes
    start: int
    body: int
    end: int


def refuse_damaged_structure(path: Path) -> None:
    """Refuse a file whose outermost boxes show that it is truncated or encrypted; other files pass.

    Raises: MediaError "truncated" or "encrypted".
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        for name, promised in (("RIFF chunk", _riff_end(head)), ("Matroska segment", _matroska_end(head))):
            if promised is not None and promised > size:
                raise MediaError("truncated", f"the {name} promises {promised:,} bytes; the file holds {size:,}")
        top = list(_boxes(file, 0, size))
        if not top or top[0].name not in TOP_LEVEL:
            return
        for box in top:
            if box.end > size:
                name = box.name.decode("ascii", "replace")
                raise MediaError(
                    "truncated", f"box '{name}' promises bytes up to {box.end:,}; the file ends at {size:,}"
                )
        if not any(box.name in (b"moov", b"moof") for box in top):
            raise MediaError("truncated", "no 'moov' box: the file was cut before its table of contents")
        for box in top:
            if box.name in CONTAINERS and _is_encrypted(file, box):
                raise MediaError("encrypted", "the samples are encrypted (Common Encryption)")


def _riff_end(head: bytes) -> int | None:
    """End of the RIFF chunk of an AVI or WAV file; None for other files and for streamed ones."""
    length = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or head[8:12] not in (b"AVI ", b"WAVE") or not 0 < length < STREAMED_RIFF:
        return None
    return 8 + length


def _matroska_end(head: bytes) -> int | None:
    """End of the segment of a Matroska or WebM file; None for other files and for streamed ones."""
    at = head.find(MATROSKA_SEGMENT)
    if not head.startswith(EBML_HEADER) or at < 0 or at + 12 > len(head) or head[at + 4] == 0:
        return None
    width = 9 - head[at + 4].bit_length()  # the leading zero bits of the first byte encode the width
    body = at + 4 + width
    length = int.from_bytes(head[at + 4 : body], "big") & ((1 << 7 * width) - 1)
    unknown = (1 << 7 * width) - 1
    return None if length == unknown else body + length


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Consecutive boxes from `start`; stops at the first invalid one. The last may end after `end`."""
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        header = file.read(16)
        length, name, body = int.from_bytes(header[:4], "big"), header[4:8], start + 8
        if length == 1 and len(header) == 16:
            length, body = int.from_bytes(header[8:16], "big"), start + 16
        elif length == 0:
            length = end - start
        if length < body - start or not all(32 <= letter < 127 or letter == 0xA9 for letter in name):
            return
        yield Box(name, start, body, start + length)
        start += length


def _is_encrypted(file: BinaryIO, parent: Box, depth: int = 0) -> bool:
    for box in _boxes(file, parent.body, parent.end):
        if box.name == b"stsd":
            file.seek(box.body)
            entries = file.read(min(box.end - box.body, MAX_ENTRIES_BYTES))
            if entries[12:16] in ENCRYPTED_ENTRIES:
                return True
        elif box.name in CONTAINERS and depth < len(CONTAINERS) and _is_encrypted(file, box, depth + 1):
            return True
    return False
