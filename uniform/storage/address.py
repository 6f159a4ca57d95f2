"""Addresses of places: a local path with any legal characters, or a URL of an object store.

Only a text that begins with `scheme://` is a URL. A colon, `#`, `?` or `%` in a local path means nothing.
"""

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlsplit

from uniform.errors import PlaceError

DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
"""Scheme of a store that can be written -> library that fsspec needs for it."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(place: str | Path) -> bool:
    """True where a place is named by a URL, and not by a local path."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def scheme_of(url: str) -> str:
    """The scheme of a URL, in lower case."""
    found = _SCHEME.match(url)
    if found is None:
        raise PlaceError(f"{url!r} is not a URL; a URL begins with a scheme, for example s3://bucket/folder")
    return found[1].lower()


def without_secrets(url: str) -> str:
    """A URL for messages: no user, password, query or fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


def require_plain(url: str) -> None:
    """Raise PlaceError where a URL holds a credential, a query, a chain of file systems or a path that leads out."""
    shown = without_secrets(url)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or "?" in url or "#" in url:
        raise PlaceError(
            f"{shown}: the URL holds a credential, a query or a fragment. Give a plain URL, and give credentials to "
            f"the driver in its environment variables."
        )
    if "::" in url:
        raise PlaceError(f"{shown}: chained file systems ('::') are not supported. Give a plain URL.")
    if any(ord(letter) < 32 for letter in url) or {"..", "."} & set(parts.path.split("/")):
        raise PlaceError(f"{shown!r}: the path holds a control character or a '..'. Give a plain URL.")


def require_writable(url: str) -> None:
    """Raise PlaceError where results cannot be written to a URL: its scheme, its form, or a missing driver."""
    scheme = scheme_of(url)
    if scheme not in DRIVERS and scheme != "memory":
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise PlaceError(f"{without_secrets(url)}: nothing can be written there. Give a local path, or one of {known}")
    require_plain(url)
    if scheme == "memory":
        return
    if not urlsplit(url).netloc:
        raise PlaceError(f"{url}: names no bucket. Wanted: {scheme}://bucket/folder")
    if importlib.util.find_spec(DRIVERS[scheme]) is None:
        raise PlaceError(
            f"{url}: the driver {DRIVERS[scheme]} is not installed. The drivers are an extra: "
            f"pip install 'uniform-toolkit[remote]'"
        )


def require_local(place: str) -> Path:
    """The local path. Raises PlaceError where `place` is a URL."""
    if is_url(place):
        raise PlaceError(
            f"{without_secrets(place)} is a URL; this takes a local path. Give a folder or file of a disk."
        )
    return Path(place)


def checked_name(name: str) -> str:
    """A name inside a directory, with "/" between its parts. Raises PlaceError where it may lead outside."""
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise PlaceError(f"{name!r} is no name inside a directory: parts must not be empty, '.' or '..'")
    return name
