"""Results of a command, written to a local path or to a URL.

For a URL the command writes into scratch space; its files are sent when it has ended. Where sending fails they are
kept on this machine, and the error names the folder.
"""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from uniform.atomic import TEMPORARY_PREFIX
from uniform.errors import UniformError
from uniform.storage.address import is_url, require_local, require_writable, scheme_of
from uniform.storage.directory import Directory, LocalDirectory
from uniform.storage.object_store import ObjectDirectory
from uniform.storage.policy import POLICY, StoragePolicy
from uniform.storage.scratch import Scratch

logger = logging.getLogger(__name__)


def open_directory(place: str | Path, policy: StoragePolicy = POLICY) -> Directory:
    """The directory at a local path or a URL.

    Raises: PlaceError, ConfigError for a URL that cannot be used.
    """
    if not isinstance(place, str) or not is_url(place):
        return LocalDirectory(require_local(str(place)))
    if scheme_of(place) == "file":
        return LocalDirectory(Path("/" + place.split("://", 1)[1].lstrip("/")))
    return ObjectDirectory(place, policy)


@contextlib.contextmanager
def output_folder(place: str | Path, *, resume: bool = False, last: tuple[str, ...] = ()) -> Iterator[Path]:
    """A local folder whose files are the results at `place`.

    A local path is used as it is. For a URL the block writes into scratch space. When it ends well, the files are
    sent, except those that were fetched and have not changed.

    Args:
        resume: fetch the files that are there first, and send what is finished also where the block fails.
        last: names of files that are sent after all others, for readers that begin with them.
    Raises: StorageError, RemoteError; results that could not be sent are kept, and the error names their folder.
    """
    if not isinstance(place, str) or not is_url(place):
        yield require_local(str(place))
        return
    require_writable(place)
    directory = open_directory(place)
    there = directory.entries()  # a bucket that cannot be reached stops the command before its work
    with Scratch() as scratch, scratch.space(sum(one.size for one in there) if resume else 0) as folder:
        before = _fetch(directory, [one.name for one in there], folder) if resume else {}
        try:
            yield folder
        except BaseException:
            if resume:
                _send(directory, folder, before, last, scratch)
            raise
        _send(directory, folder, before, last, scratch)


@contextlib.contextmanager
def output_file(place: str | Path) -> Iterator[Path]:
    """A local path whose file is the result at `place`; sent when the block ends well. See `output_folder`."""
    if not isinstance(place, str) or not is_url(place):
        yield require_local(str(place))
        return
    parent, _, name = place.rstrip("/").rpartition("/")
    require_writable(parent)
    with output_folder(parent) as folder:
        yield folder / name


def _fetch(directory: Directory, names: list[str], folder: Path) -> dict[str, tuple[int, int]]:
    """Copy files here. Returns: name -> size and time of the copy, to know which files the block changes."""

    def one(name: str) -> tuple[int, int]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(directory.read(name))
        return _mark(path)

    with ThreadPoolExecutor(POLICY.requests_at_once) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _send(
    directory: Directory, folder: Path, before: dict[str, tuple[int, int]], last: tuple[str, ...], scratch: Scratch
) -> None:
    """Publish each file that is new or changed."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    names = [name for name in names if TEMPORARY_PREFIX not in name and before.get(name) != _mark(folder / name)]
    try:
        for group in ([name for name in names if name not in last], [name for name in last if name in names]):
            with ThreadPoolExecutor(POLICY.requests_at_once) as pool:
                list(pool.map(lambda name: directory.publish(folder / name, name), sorted(group)))
    except UniformError as error:
        kept = scratch.keep(folder)
        raise type(error)(
            f"{error} Results that were not sent are kept in {kept}; copy them to {directory}."
        ) from error
    logger.info("%d files sent to %s", len(names), directory)


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
