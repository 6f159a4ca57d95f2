"""A directory on an object store, through fsspec: s3://, gs://, az://, memory://.

A store shows an object only when its upload has ended, so a file is whole under its name or not there. After each
upload size and checksum are compared; where the store's checksum says nothing, the bytes are read back. Drivers take
credentials from the environment only. A process that is killed in the middle of an upload in parts leaves parts that
no listing shows; a lifecycle rule of the bucket removes them.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from uniform.errors import ConfigError, RemoteError
from uniform.storage.address import checked_name, require_plain, scheme_of
from uniform.storage.directory import Entry
from uniform.storage.policy import POLICY, StoragePolicy, reason_of, retried

VERSION_KEYS = ("ETag", "etag", "generation", "blob_id", "md5", "LastModified", "last_modified", "mtime", "created")
"""Names that drivers use for the version of a file."""
READ_BUFFER_BYTES = 1 << 20
"""Bytes that an open file requests at once at least."""


class _WrongUploadError(OSError):
    """A store keeps other bytes than were sent."""


def connect(url: str, policy: StoragePolicy = POLICY) -> tuple[Any, str]:
    """The driver's file system and the folder's path in it.

    Raises: PlaceError for a URL with a credential; ConfigError where a driver is missing or fsspec knows no such URL.
    """
    from fsspec.core import url_to_fs

    require_plain(url)
    options: dict[str, Any] = {}
    if scheme_of(url) == "s3":
        options["config_kwargs"] = {
            "connect_timeout": policy.connect_timeout_s,
            "read_timeout": policy.read_timeout_s,
            "max_pool_connections": policy.requests_at_once,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
    try:
        files, path = url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}. The drivers are an extra: pip install 'uniform-toolkit[remote]'") from error
    except Exception as error:
        raise ConfigError(f"{url}: fsspec cannot open this URL ({reason_of(error)})") from error
    if scheme_of(url) == "s3":
        files.retries = 1  # `retried` is the only place that tries again
    files.invalidate_cache()  # fsspec caches one file system per store, with its listings
    return files, str(path).rstrip("/")


def call(files: Any, policy: StoragePolicy, size_bytes: int, method: str, *args: Any, **options: Any) -> Any:
    """Call a method of a file system with a deadline for the whole request, where the driver allows one."""
    from fsspec.asyn import AsyncFileSystem, sync

    if isinstance(files, AsyncFileSystem) and not files.asynchronous:
        deadline_s = policy.deadline_s(size_bytes)
        return sync(files.loop, getattr(files, f"_{method}"), *args, timeout=deadline_s, **options)
    return getattr(files, method)(*args, **options)


def version_of(found: dict[str, Any]) -> str:
    """The version of a file in a driver's words; empty where it gives none."""
    return next((f"{key} {found[key]}" for key in VERSION_KEYS if found.get(key)), "")


class ObjectDirectory:
    """A `Directory` on an object store."""

    def __init__(self, url: str, policy: StoragePolicy = POLICY) -> None:
        self.url, self.policy = url.rstrip("/"), policy
        self._files, self._path = connect(self.url, policy)

    def __str__(self) -> str:
        return self.url

    def entry(self, name: str) -> Entry | None:
        """See `Directory`."""

        def once() -> Entry | None:
            self._files.invalidate_cache()
            try:
                found = self._call(0, "info", self._at(name))
            except FileNotFoundError as error:
                if error.__cause__ is not None and _status(error.__cause__) not in (404, None):
                    raise
                return None
            if found.get("type") == "directory":
                return None
            return Entry(name, int(found["size"]), version_of(found))

        return retried(f"{self.url}/{name}", once, self.policy)

    def entries(self, prefix: str = "") -> list[Entry]:
        """See `Directory`. One request for every 1,000 files, on S3."""
        folder, _, start = prefix.rpartition("/")
        at = f"{self._path}/{checked_name(folder)}" if folder else self._path

        def once() -> dict[str, dict[str, Any]]:
            self._files.invalidate_cache()
            options = {"prefix": start} if start and scheme_of(self.url) in ("s3", "gs", "gcs") else {}
            try:
                found: dict[str, dict[str, Any]] = self._call(0, "find", at, detail=True, **options)
            except FileNotFoundError as error:
                if _status(error.__cause__) is None and error.__cause__ is not None:
                    raise
                found = {}
            if not found and not self._call(0, "exists", self._bucket()):
                raise RemoteError(
                    f"{self.url}: there is no bucket of this name, or it cannot be listed. Check the URL."
                )
            return found

        begin = len(self._path.lstrip("/")) + 1
        found = retried(f"{self.url}/{prefix}", once, self.policy)
        names = {path.lstrip("/")[begin:]: one for path, one in found.items() if one.get("type") == "file"}
        return [
            Entry(name, int(one["size"]), version_of(one))
            for name, one in sorted(names.items())
            if name.startswith(prefix)
        ]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Directory`."""
        if stop is None:
            stop = self._require(name).size
        size = stop - start
        if size <= 0:
            return b""

        def once() -> bytes:
            content: bytes = self._call(size, "cat_file", self._at(name), start=start, end=stop)
            if len(content) != size:
                raise OSError(f"bytes {start} to {stop} were requested, {len(content)} bytes arrived")
            return content

        return retried(f"{self.url}/{name}", once, self.policy)

    def open(self, name: str) -> IO[bytes]:
        """See `Directory`."""
        return io.BufferedReader(_Ranges(self, self._require(name)), READ_BUFFER_BYTES)

    def publish(self, file: Path, name: str) -> Entry:
        """See `Directory`."""
        size, at = file.stat().st_size, self._at(name)
        options = {"chunksize": self.policy.part_bytes, "max_concurrency": self.policy.requests_at_once}

        def once() -> Entry:
            self._call(size, "put_file", str(file), at, **(options if scheme_of(self.url) == "s3" else {}))
            return self._verified(name, file)

        return retried(f"{self.url}/{name}", once, self.policy, fix=f"The file is still at {file}.")

    def write(self, name: str, content: bytes) -> None:
        """See `Directory`."""

        def once() -> None:
            self._call(len(content), "pipe_file", self._at(name), content)
            if self.read(name) != content:
                raise _WrongUploadError(f"{len(content)} bytes were sent, the store keeps others")

        retried(f"{self.url}/{name}", once, self.policy)

    def create(self, name: str, content: bytes) -> bool:
        """See `Directory`. Drivers repeat a request whose answer was lost, so a file with exactly these bytes counts
        as made by this call: let the content name its maker.
        """

        def once() -> None:
            if scheme_of(self.url) == "memory" and self._files.exists(self._at(name)):
                raise FileExistsError(name)
            try:
                self._call(len(content), "pipe_file", self._at(name), content, mode="create")
            except OSError as error:
                if _status(error.__cause__) == 412:
                    raise FileExistsError(name) from error
                raise

        try:
            retried(f"{self.url}/{name}", once, self.policy)
        except FileExistsError:
            return self.read(name) == content
        if self.read(name) != content:
            raise RemoteError(f"{self.url}/{name}: the store keeps other bytes than were sent. Remove it; run again.")
        return True

    def delete(self, names: Iterable[str]) -> None:
        """See `Directory`."""

        def remove(name: str) -> None:
            def once() -> None:
                try:
                    self._call(0, "rm_file", self._at(name))
                except FileNotFoundError as error:
                    if _status(error.__cause__) not in (404, None):
                        raise

            retried(f"{self.url}/{name}", once, self.policy)

        with ThreadPoolExecutor(self.policy.requests_at_once) as pool:
            list(pool.map(remove, names))

    def _verified(self, name: str, file: Path) -> Entry:
        """The entry of an upload that is complete: its size, and its checksum or its bytes, are those of `file`."""
        found, size = self.entry(name), file.stat().st_size
        if found is None or found.size != size:
            raise _WrongUploadError(f"{size} bytes were sent, the store has {found.size if found else 'none'}")
        mark = re.search(r'(?:ETag|etag) "?([0-9a-f]{32}(?:-\d+)?)"?$', found.version)
        if mark is not None and mark[1] == _etag(file, self.policy.part_bytes if "-" in mark[1] else None):
            return found
        step = self.policy.part_bytes
        with file.open("rb") as content:
            for start in range(0, size, step):
                sent = content.read(step)
                if self.read(name, start, start + len(sent)) != sent:
                    raise _WrongUploadError(f"the store keeps other bytes than were sent, from byte {start} on")
        return found

    def _require(self, name: str) -> Entry:
        found = self.entry(name)
        if found is None:
            raise RemoteError(f"{self.url}/{name}: not found. Check the URL.")
        return found

    def _call(self, size_bytes: int, method: str, *args: Any, **options: Any) -> Any:
        return call(self._files, self.policy, size_bytes, method, *args, **options)

    def _bucket(self) -> str:
        """The part of the path that must exist before anything is written; a store in memory needs none."""
        return "" if scheme_of(self.url) == "memory" else self._path.lstrip("/").split("/")[0]

    def _at(self, name: str) -> str:
        return f"{self._path}/{checked_name(name)}"


class _Ranges(io.RawIOBase):
    """An open file of a store, read by ranges."""

    def __init__(self, directory: ObjectDirectory, entry: Entry) -> None:
        self._directory, self._entry, self._position = directory, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._entry.size)
        content = self._directory.read(self._entry.name, self._position, stop)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _etag(file: Path, part_bytes: int | None) -> str:
    """The checksum that S3 gives a file that was uploaded at once, or in parts of `part_bytes`."""
    with file.open("rb") as content:
        if part_bytes is None:
            return hashlib.file_digest(content, _md5).hexdigest()
        parts = [_md5(part).digest() for part in iter(lambda: content.read(part_bytes), b"")]
    return f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)  # the store's own checksum; no secret rests on it


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind a driver's error, where it has one."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
