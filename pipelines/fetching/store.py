"""Fetched sources on disk: each address once, complete, with its metadata beside it.

<folder>/3f/3f09...c1.mp4     the source
<folder>/3f/3f09...c1.json    its metadata: address, bytes, SHA-256, time; without it the source does not count
<folder>/3f/3f09...c1.refused.json    a lasting refusal, cached for the next clip of this source
<folder>/3f/.tmp-3f09...c1/   what an unfinished attempt left, for the next one to resume
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.codes import CODES
from pipelines.disk import explain_disk_error, is_disk_full
from pipelines.fetching.base import Fetched, FetchError
from uniform.atomic import TEMPORARY_PREFIX
from uniform.fingerprint import canonical_json, file_sha256
from uniform.untrusted_json import read_untrusted_json

UNASKED = ("address_refused", "scheme_refused")
"""Refusals of our own, not cached: another option can change them, and checking again costs no request."""
MEDIA_SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".aac", ".asf", ".avi", ".dv", ".flac", ".flv", ".gif", ".h264", ".ivf", ".m2ts", ".m4a"),
        *(".m4v", ".mj2", ".mka", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".oga"),
        *(".ogg", ".ogv", ".opus", ".qt", ".rm", ".ts", ".vob", ".wav", ".webm", ".wma", ".wmv", ".y4m"),
    )
)
"""Suffixes that a source keeps. Any other name from outside, ".json" above all, could be that of a file of ours."""
OTHER_SUFFIX = ".bin"
CLOCK_SKEW_S = 3_600.0
"""A cached refusal from later than this after now was written by a wrong clock, and does not count."""
MAX_METADATA_BYTES = 1 << 20
PUT_ATTEMPTS = 20


def kept_suffix(name: str) -> str:
    """The suffix of a source in the store: that of its name where it is one of media; ".mp4" for a name without."""
    suffix = PurePosixPath(name).suffix.lower()
    if not suffix:
        return ".mp4"
    return suffix if suffix in MEDIA_SUFFIXES else OTHER_SUFFIX


@dataclass(frozen=True)
class Made:
    """A source in the work folder of an attempt."""

    path: Path
    suffix: str
    """With its dot. For people: readers of the file look at its content."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Written beside the file; without secrets."""
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    """Of the file, where it is known already; None reads the file for it."""


class MediaStore:
    """A folder of fetched sources, safe to share between processes.

    Args:
        folder: made where it is missing.
        refusals_h: hours for which a lasting refusal is cached; None asks every time.
        unblocked_at_s: policy -> seconds since 1970; a refusal of that policy from before this time does not count.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        refusals_h: float | None = 24.0,
        unblocked_at_s: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._refusals_h, self._clock = folder.absolute(), refusals_h, clock
        self._unblocked_at_s = unblocked_at_s or {}

    @staticmethod
    def key(kind: str, scope: str, uri: str) -> str:
        """32 hex digits that name a source. `scope` is the dataset, for addresses that count within one only."""
        return hashlib.sha256(f"{kind}\0{scope}\0{uri}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def find(self, key: str) -> Fetched | None:
        """The source, if it is here; None too where its file was lost or changed since."""
        metadata = _read_json(self._place(key, ".json"))
        if metadata is None or not _is_complete(metadata):
            return None
        path = self._place(key, metadata["suffix"])
        try:
            found = path.stat()
            if found.st_size != metadata["bytes"]:
                return None
            # Size and time stand for the content, which takes long to read; where the time differs, it is read.
            if metadata.get("mtime_ns") not in (None, found.st_mtime_ns) and file_sha256(path) != metadata["sha256"]:
                return None
        except OSError:
            return None
        return _fetched(path, metadata)

    def once(self, key: str, make: Callable[[Path], Made]) -> Fetched:
        """The source; `make` fetches it where it is not here yet, in one process at a time.

        Args:
            make: takes the work folder of this source, with what earlier attempts left.
        Raises: FetchError, from `make` or cached; PipelineError where the disk is full.
        """
        with _stopping_when_full(self._folder):
            return self._once(key, make)

    def _once(self, key: str, make: Callable[[Path], Made]) -> Fetched:
        found = self.find(key)
        if found is not None:
            return found
        with self._locked(key):
            found = self.find(key)
            if found is not None:
                return found
            self._raise_cached(key)
            work = self._place(f"{TEMPORARY_PREFIX}{key}", "", shard=key)
            try:
                work.mkdir(parents=True, exist_ok=True)
                fetched = self._commit(key, make(work))
            except FetchError as error:
                if CODES[error.code].policy != "retryable":
                    if error.code not in UNASKED:
                        self._cache(key, error)
                    shutil.rmtree(work, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)
            return fetched

    def _place(self, name: str, suffix: str, shard: str | None = None) -> Path:
        return self._folder / (shard or name)[:2] / f"{name}{suffix}"

    def _commit(self, key: str, made: Made) -> Fetched:
        size_bytes, sha256 = made.path.stat().st_size, made.sha256 or file_sha256(made.path)
        path = self._place(key, made.suffix)
        with made.path.open("rb") as file:
            os.fsync(file.fileno())
        made.path.replace(path)
        metadata = {
            **made.metadata,
            "suffix": made.suffix,
            "bytes": size_bytes,
            "sha256": sha256,
            "mtime_ns": path.stat().st_mtime_ns,
            "notes": list(made.notes),
            "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock())),
        }
        _put(self._place(key, ".json"), canonical_json(metadata))
        return _fetched(path, metadata)

    def _cache(self, key: str, error: FetchError) -> None:
        refusal = {"code": error.code, "reason": error.reason, "time": self._clock()}
        _put(self._place(key, ".refused.json"), canonical_json(refusal))

    def _raise_cached(self, key: str) -> None:
        refusal = _read_json(self._place(key, ".refused.json"))
        if refusal is None or self._refusals_h is None:
            return
        code, reason, time_s = (refusal.get(name) for name in ("code", "reason", "time"))
        if not isinstance(code, str) or code not in CODES or not isinstance(time_s, int | float):
            return
        if time_s < self._unblocked_at_s.get(CODES[code].policy, 0.0):
            return
        if -CLOCK_SKEW_S <= self._clock() - time_s < 3600 * self._refusals_h:
            raise FetchError(code, f"{reason} (asked before)")

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Lock the source for this process; the lock file is removed with the lock.

        Not a FileLock of filelock: that leaves a file behind for each of millions of sources.
        """
        path = self._place(f".lock-{key}", "", shard=key)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _still_named(handle, path):
                break
            os.close(handle)  # its last holder removed it; lock the new file
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)


@contextlib.contextmanager
def _stopping_when_full(folder: Path) -> Iterator[None]:
    """A full disk stops the run, whether the system says it or a fetcher's own program.

    Going on would ask a host for every source that is left, and lose each in the same way.
    """
    try:
        yield
    except (FetchError, OSError) as error:
        full = error
        if isinstance(error, FetchError) and error.code == "disk_full":
            full = OSError(errno.ENOSPC, error.reason)
        if not isinstance(full, OSError) or not is_disk_full(full):
            raise
        explained = explain_disk_error(full, folder)
        assert explained is not None
        raise explained from error


def _fetched(path: Path, metadata: Mapping[str, Any]) -> Fetched:
    return Fetched(
        path,
        metadata["bytes"],
        metadata["sha256"],
        tuple(metadata["notes"]),
        format=metadata.get("format"),
        title=metadata.get("title"),
        fetched=metadata["fetched"],
    )


def _still_named(handle: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return named.st_ino == os.fstat(handle).st_ino


def _put(path: Path, text: str) -> None:
    """Write a small file, whole or not at all, under the lock of its source.

    Not synced: after a power cut the source is fetched again.

    The temporary name is that of the source, so that its next holder writes over what a killed process left. A
    sweep of an older version can remove it under us: then it is written again.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    for _ in range(PUT_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
            return
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The metadata in `path`; None where there is none, or it is damaged."""
    try:
        found = read_untrusted_json(path.read_bytes(), max_bytes=MAX_METADATA_BYTES)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_complete(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata names a file beside it, and holds what a source has."""
    suffix, notes = metadata.get("suffix"), metadata.get("notes")
    named = isinstance(suffix, str) and suffix.startswith(".") and "/" not in suffix and suffix != ".json"
    texts = all(isinstance(metadata.get(name), str) for name in ("sha256", "fetched"))
    return named and texts and isinstance(metadata.get("bytes"), int) and isinstance(notes, list)
