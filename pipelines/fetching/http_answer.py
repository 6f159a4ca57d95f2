"""One HTTP response: its headers, read with distrust, and failures of its connection as plain data."""

import http.client
import re
import ssl
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, urljoin, urlsplit

from pipelines.fetching.base import FetchError
from pipelines.fetching.messages import code_of_message

SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv", ".gif"}
MAX_INTERIM = 16
"""Interim answers (1xx) before the answer."""
MAX_VALIDATOR = 512
CODINGS = ("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd")
"""Content codings that change the bytes. Servers name others by mistake: utf-8, aws-chunked, binary."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class _Head:
    """The lines of a response's head. Python takes the end of the connection for the end of the head."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._has_begun = False

    def readline(self, limit: int = -1) -> bytes:
        """The next line. Raises ConnectionResetError where the connection ended within the head."""
        line = self.file.readline(limit)
        is_cut = not line.endswith(b"\n") and (limit < 0 or len(line) < limit)
        if is_cut and (line or self._has_begun):
            raise ConnectionResetError("the connection broke within the head of the answer")
        self._has_begun = True
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Response(http.client.HTTPResponse):
    """A response whose head is complete, and whose interim answers (100, 103 Early Hints) are skipped.

    Python's own skips 100 alone, and takes a head that a broken connection cut for an answer: an empty file, or a 404.
    """

    def begin(self) -> None:
        """Read the head. Raises ConnectionResetError where the connection broke within it."""
        file = self.fp
        head: Any = _Head(file)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:  # a response without content has closed it
                self.fp = file

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {MAX_INTERIM} interim answers (1xx)")


def joined(uri: str, location: str) -> str:
    """The address that a Location header means, seen from `uri`. Raises FetchError `bad_response`.

    Headers arrive decoded as Latin-1; raw bytes in them are UTF-8, or else stay the bytes that they are.
    """
    raw = location.encode("latin-1", "replace")
    try:
        location = raw.decode("utf-8")
    except UnicodeDecodeError:
        location = quote(raw, safe="".join(map(chr, range(0x21, 0x7F))))
    try:
        return urljoin(uri, location)
    except ValueError as error:
        raise FetchError("bad_response", f"a redirect to what is no address: {error}") from error


def content_length(headers: http.client.HTTPMessage) -> int | None:
    """Bytes that the response announces; None where it does not, or sends chunks, which end by themselves."""
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
        return None
    announced = (headers.get("Content-Length") or "").strip()
    return int(announced) if _NUMBER.fullmatch(announced) and announced.isascii() else None


def covered_length(headers: http.client.HTTPMessage) -> int | None:
    """Bytes of the file where a partial response (206) covers all of it; None where it does not."""
    found = _RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if found is None or int(found[1]) != 0 or int(found[2]) + 1 != int(found[3]):
        return None
    return int(found[3])


def content_coding(headers: http.client.HTTPMessage) -> str | None:
    """The content coding that changes the bytes, if the response names one."""
    named = [coding.strip().lower() for coding in (headers.get("Content-Encoding") or "").split(",")]
    return next((coding for coding in named if coding in CODINGS), None)


def content_type(headers: http.client.HTTPMessage) -> str:
    """The media type without its parameters, in small letters."""
    return (headers.get("Content-Type") or "").split(";")[0].strip().lower()[:100]


def validator(headers: http.client.HTTPMessage) -> str | None:
    """A strong validator of the content, which a later request can send: its ETag, or its Last-Modified."""
    tag = headers.get("ETag")
    chosen = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    return chosen if is_validator(chosen) else None


def is_validator(value: object) -> bool:
    """Whether a value can be sent as If-Range."""
    return isinstance(value, str) and 0 < len(value) <= MAX_VALIDATOR and value.isascii() and value.isprintable()


def suffix_of(uri: str, media_type: str) -> str:
    """The suffix of a file, by its address, else by its media type."""
    suffix = PurePosixPath(urlsplit(uri).path).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    return {"video/webm": ".webm", "video/x-matroska": ".mkv", "video/quicktime": ".mov"}.get(media_type, ".mp4")


def as_fetch_error(error: Exception) -> FetchError:
    """A failure of the socket, of TLS or of HTTP itself, as plain data."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return FetchError("connection", f"the connection broke within TLS: {error}")
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", str(error))
    if isinstance(error, TimeoutError):
        return FetchError("timeout", str(error) or "no answer")
    if isinstance(error, http.client.IncompleteRead):
        return FetchError("incomplete", str(error))
    if isinstance(error, http.client.RemoteDisconnected):
        return FetchError("connection", "the server closed the connection without an answer")
    if isinstance(error, http.client.HTTPException | ValueError):
        return FetchError("bad_response", f"{type(error).__name__}: {error}")
    code = code_of_message(str(error))
    return FetchError("connection" if code == "unknown" else code, str(error))
