"""One source under several spellings: keys that are equal where two rows name the same source.

Clip ids are hashes of the source id as the listing spells it, so that they stay the same for good. Duplicates and split
overlaps are found by these keys instead.
"""

import posixpath
import re
import unicodedata
from urllib.parse import quote, urlsplit

from pipelines.clip import Row

DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def source_keys(row: Row) -> tuple[str, ...]:
    """The names of a row's source: its id, and its address or path where that is another one; both normalised."""
    if row.source_kind == "youtube":
        return (row.source_id,)
    key = normalised(row.source_uri)
    if row.source_id == row.source_uri:
        return (key,)
    return tuple(dict.fromkeys((normalised(row.source_id), key)))


def normalised(source: str) -> str:
    """An address or a path in one spelling.

    Addresses: scheme and host in small letters, without default port and fragment, escapes only where they are needed,
    https as http. Paths: without "." and doubled slashes, in NFC; members of archives too.
    """
    if _SCHEME.match(source):
        return _address(source)
    text = source if source.isascii() else unicodedata.normalize("NFC", source)
    if "/" not in text and "#" not in text:
        return text
    return "#".join(posixpath.normpath(part).lstrip("/") if part else part for part in text.split("#"))


def _address(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return uri
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS:  # the name of a bucket is in the case that it has
        return f"{scheme}://{parts.netloc}{posixpath.normpath(parts.path or '/')}"
    shown_port = "" if port in (None, DEFAULT_PORTS[scheme]) else f":{port}"
    path = posixpath.normpath(_escaped(parts.path) or "/")
    path = "/" + path.lstrip("/") + ("/" if parts.path.endswith("/") and path != "/" else "")
    query = f"?{_escaped(parts.query)}" if parts.query else ""
    return f"http://{_ascii_host(host)}{shown_port}{path}{query}"


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _escaped(text: str) -> str:
    """The text with escapes in capital letters, and none for letters and digits."""

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if _UNRESERVED.fullmatch(character) else f"%{match[1].upper()}"

    return quote(_ESCAPE.sub(plain, text), safe="%/:@!$&'()*+,;=?~-._[]")
