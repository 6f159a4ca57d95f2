"""Types of the options and arguments that name a place: a local path, or a place that may be a URL too.

A place that a command cannot use is refused here, in one line with exit code 2, before anything is done.
"""

from pathlib import Path

from uniform.errors import PlaceError
from uniform.storage.address import is_url, require_local, require_writable, scheme_of


def local_path(value: str | Path) -> Path:
    """A local path, with any legal characters. Raises PlaceError for a URL."""
    if isinstance(value, Path):
        return value
    if value.startswith("file://"):
        raise PlaceError(f"{value!r} is a URL; this takes a local path. Leave file:// out.")
    return require_local(value)


def writable_place(value: str | Path) -> str | Path:
    """A local path, or the URL of a store that can be written. Raises PlaceError for any other URL."""
    if isinstance(value, str) and is_url(value) and scheme_of(value) != "file":
        require_writable(value)
        return value
    return local_path(value)


def local_name(value: str) -> str:
    """A name of something built in, or a local path. Raises PlaceError for a URL."""
    if is_url(value):
        require_local(value)
    return value
