"""A folder of latent shards on an object store, a hub or a web server, read through fsspec.

Any URL that fsspec reads: s3://, gs://, az://, hf://, https://, file://, memory://. The drivers are separate
libraries (extra `remote`); they take credentials from the environment, and a URL that carries one is refused. Files
are read by byte range, so a failure costs no more than the current range.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity

from uniform.atomic import write_bytes
from uniform.errors import ConfigError, RemoteError
from uniform.fingerprint import digest
from uniform.latents.format import CARD_NAME, INDEX_NAME

logger = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5
"""Attempts of one request before the run stops."""
FIRST_PAUSE_S = 0.5
"""Pause after the first failure; doubled after each, so that five attempts wait 7.5 s in all."""
LARGEST_BYTES = {INDEX_NAME: 4 << 30, CARD_NAME: 64 << 20}
"""Size limits of files that are read into memory."""
SIZE_REQUESTS_AT_ONCE = 16
"""Requests for the size of a file, where the store cannot list the folder."""
VERSION_KEYS = ("ETag", "etag", "generation", "blob_id", "md5", "LastModified", "last_modified", "mtime", "created")
"""Names that drivers use for the version of a file."""


class _NoAnswerError(RemoteError):
    """Every attempt failed."""


@dataclass(frozen=True)
class FileProperties:
    """Size and version of a file on a store."""

    size: int
    """Bytes."""
    version: str = ""
    """Differs between versions of the file; empty where the store has none."""


def is_url(folder: str | Path) -> bool:
    """True where a data source is named by a URL, and not by a path."""
    return "://" in str(folder)


def default_cache_folder() -> Path:
    """Default cache of fetched shards: $XDG_CACHE_HOME/uniform/shards, or ~/.cache/uniform/shards."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "uniform" / "shards"


class RemoteFolder:
    """A remote folder of shards. Its index and card are fetched anew each time it is opened. Prints as its URL."""

    def __init__(self, url: str, cache_folder: Path) -> None:
        """Open a folder and fetch its index and card.

        Args:
            cache_folder: receives them in `<16 hex of URL, index and card>/`, so that files of an earlier
                version of the folder are not used.
        Raises: ConfigError for a URL that carries a credential or needs a missing driver; RemoteError.
        """
        self.url = url.rstrip("/")
        self._files, self._path = _connect(self.url)
        self._properties: dict[str, FileProperties] = {}
        self._listed: set[str] = set()
        contents = {name: self._whole(name) for name in (INDEX_NAME, CARD_NAME)}
        marks = [hashlib.sha256(content).hexdigest() for content in contents.values()]
        self.local = cache_folder / digest([self.url, *marks])
        """Local folder of index.parquet, card.json and everything fetched."""
        try:
            for name, content in contents.items():
                write_bytes(self.local / name, content)
        except OSError as error:
            raise RemoteError(f"{self.local}: cannot be written ({error}). Set data.cache_folder.") from error

    def __str__(self) -> str:
        return self.url

    def fetch_properties(self, names: Sequence[str]) -> None:
        """Get the sizes and versions of these files. Raises: RemoteError where one is missing."""
        try:
            self._listed = set(self._listing()) & set(names)
        except Exception as error:  # a web server, for instance, may have no listing
            logger.warning("%s: no listing (%s); requesting each file", self.url, _reason(error))
        self._properties = self._read_properties(names)

    def _read_properties(self, names: Sequence[str]) -> dict[str, FileProperties]:
        """Properties of files, from one listing where `fetch_properties` used it too: a driver may report the two
        differently.
        """
        requested = [name for name in names if name not in self._listed]
        with ThreadPoolExecutor(SIZE_REQUESTS_AT_ONCE) as pool:
            properties = dict(zip(requested, pool.map(self._request_properties, requested), strict=True))
        if len(requested) < len(names):
            listing = _retried(self.url, self._listing)
            gone = [name for name in names if name not in properties and name not in listing]
            if gone:
                raise RemoteError(f"{self.url}/{gone[0]}: no longer there. Restore it, then start the run again.")
            properties |= {name: listing[name] for name in names if name not in properties}
        return properties

    def _listing(self) -> dict[str, FileProperties]:
        entries = self._files.ls(self._path, detail=True)
        return {Path(entry["name"]).name: _file_properties(entry) for entry in entries if entry.get("size") is not None}

    def size(self, name: str) -> int:
        """Bytes of a file, as `fetch_properties` found it."""
        return self._properties[name].size

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file.

        Raises: RemoteError that names the file, where it is gone, refused, changed, or fails `ATTEMPTS` times.
        """

        def once() -> bytes:
            content: bytes = self._files.cat_file(f"{self._path}/{name}", start=start, end=stop)
            if len(content) != stop - start:
                raise OSError(f"bytes {start} to {stop} were requested, {len(content)} bytes arrived")
            return content

        try:
            return _retried(f"{self.url}/{name}", once)
        except RemoteError as error:
            if name in self._properties and not isinstance(error.__cause__, FileNotFoundError | PermissionError):
                with suppress(_NoAnswerError):
                    self.require_unchanged(name)  # raises where a change is the reason
            raise

    def require_unchanged(self, name: str) -> None:
        """Raise RemoteError where a file is no longer what `fetch_properties` found."""
        self._files.invalidate_cache()
        now, then = self._read_properties([name])[name], self._properties[name]
        if now != then:
            raise RemoteError(
                f"{self.url}/{name}: changed since the run opened it, from {then.size:,} bytes ({then.version}) to "
                f"{now.size:,} bytes ({now.version}). Start the run again: it reads the new index, and resumes only if "
                f"the clips are the same."
            )

    def _request_properties(self, name: str) -> FileProperties:
        def once() -> FileProperties:
            return _file_properties(self._files.info(f"{self._path}/{name}"))

        return _retried(f"{self.url}/{name}", once)

    def _whole(self, name: str) -> bytes:
        size, limit = self._request_properties(name).size, LARGEST_BYTES[name]
        if size > limit:
            raise RemoteError(
                f"{self.url}/{name}: {size:,} bytes; no more than {limit:,} are read. Is it the right file?"
            )
        return self.read(name, 0, size)


def _connect(url: str) -> tuple[Any, str]:
    """The driver's file system and the folder's path in it."""
    from fsspec.core import url_to_fs

    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"data source '{parts.scheme}://...{parts.path}': the URL holds a credential or a query, which "
            f"every checkpoint would contain. Give credentials to the driver in its environment variables."
        )
    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}. The drivers are an extra: pip install 'uniform-toolkit[remote]'") from error
    except Exception as error:
        raise ConfigError(f"{url}: fsspec cannot open this URL ({_reason(error)})") from error
    files.invalidate_cache()  # fsspec caches one file system per store, with its listings
    return files, str(path).rstrip("/")


def _file_properties(entry: dict[str, Any]) -> FileProperties:
    if entry.get("size") is None:
        raise OSError("the store does not report its size")
    mark = next((f"{key} {entry[key]}" for key in VERSION_KEYS if entry.get(key)), "")
    return FileProperties(int(entry["size"]), mark)


def _retried(what: str, function: Callable[[], T]) -> T:
    """`function()`, repeated after a growing pause where the failure may be temporary."""

    def log_failure(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = _reason(error) if error else ""
        logger.warning("%s: attempt %d of %d failed (%s)", what, state.attempt_number, ATTEMPTS, reason)

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_PAUSE_S),
        retry=tenacity.retry_if_exception(_is_retryable),
        before_sleep=log_failure,
        reraise=True,
    )
    try:
        return attempts(function)
    except PermissionError as error:
        raise RemoteError(
            f"{what}: refused ({_reason(error)}). Give the driver credentials in its environment variables."
        ) from error
    except Exception as error:  # each driver has errors of its own
        if not _is_retryable(error):
            raise RemoteError(f"{what}: not found. Check the URL; a finished folder of shards has it.") from error
        raise _NoAnswerError(
            f"{what}: {ATTEMPTS} attempts failed, the last with {_reason(error)}. When the store can be "
            f"reached again, the same command resumes from the newest checkpoint."
        ) from error


def _is_retryable(error: BaseException) -> bool:
    """True where the next attempt may succeed: everything but a refusal, and a file that is certainly not there."""
    if isinstance(error, FileNotFoundError):
        return _may_pass(error)
    return isinstance(error, Exception) and not isinstance(error, PermissionError)


def _may_pass(error: FileNotFoundError) -> bool:
    """True where a driver reports "not found" for another failure, as the driver for HTTP does."""
    cause = error.__cause__
    return cause is not None and not isinstance(cause, LookupError) and getattr(cause, "status", None) not in (404, 410)


def _reason(error: BaseException) -> str:
    """An error as text, without the signed query of URLs in it."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\?\S+", "?...", f"{type(error).__name__}: {error}")
