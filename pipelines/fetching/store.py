"""Fetched sources on disk: each address once, whole and with its facts beside it, whoever asks and however often.

<folder>/3f/3f09...c1.mp4     the source
<folder>/3f/3f09...c1.json    its facts: address, bytes, SHA-256, when and how it was had; the source counts with it
<folder>/3f/3f09...c1.refused.json    a lasting refusal, so that the next clip of this source does not ask again
<folder>/3f/.tmp-3f09...c1/   what an unfinished attempt left: the next one may go on from it
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.codes import CODES
from pipelines.disk import explain_disk_error, is_disk_full
from pipelines.fetching.base import Fetched, FetchError
from uniform.atomic import TEMPORARY_PREFIX
from uniform.fingerprint import canonical_json, file_sha256

UNASKED = ("address_refused", "scheme_refused")
"""Refusals of our own, which another option may lift; finding out again costs no request."""


SUFFIX_CHARACTERS = 16
"""What is kept of a source's suffix: a name of our own must stay within the 255 bytes of a file system."""


def kept_suffix(name: str) -> str:
    """The suffix that a source keeps of its name, in small letters; ".mp4" where it has none."""
    return PurePosixPath(name).suffix.lower()[:SUFFIX_CHARACTERS] or ".mp4"


@dataclass(frozen=True)
class Made:
    """A source as an attempt left it in its work folder."""

    path: Path
    suffix: str
    """With its dot; tells the container to people, not to us."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Kept beside the file; free of secrets."""
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    """Of the file, where the attempt has it already; None reads the file for it."""


class MediaStore:
    """A folder of fetched sources, safe to share between processes.

    Args:
        folder: made where it is missing.
        refusals_h: how long a lasting refusal is remembered, in hours; None asks every time.
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
        """32 hex digits that name a source. `scope` is the data set, where addresses only count within it."""
        return hashlib.sha256(f"{kind}\0{scope}\0{uri}".encode()).hexdigest()[:32]

    def find(self, key: str) -> Fetched | None:
        """The source, if it was had; None too where its file was lost or cut since."""
        facts = _read_json(self._place(key, ".json"))
        if facts is None:
            return None
        path = self._place(key, str(facts["suffix"]))
        try:
            size_bytes = path.stat().st_size
        except OSError:
            return None
        if size_bytes != facts["bytes"]:
            return None
        return _fetched(path, facts)

    def once(self, key: str, make: Callable[[Path], Made]) -> Fetched:
        """The source; `make` is called for it if nobody had it yet, by one process at a time.

        Args:
            make: takes the work folder of this source, which holds what earlier attempts left.
        Raises: FetchError, from `make` or remembered; PipelineError where the disk is full.
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
            self._raise_remembered(key)
            work = self._place(f"{TEMPORARY_PREFIX}{key}", "", shard=key)
            try:
                work.mkdir(parents=True, exist_ok=True)
                fetched = self._commit(key, make(work))
            except FetchError as error:
                if CODES[error.code].policy != "retryable":
                    if error.code not in UNASKED:
                        self._remember(key, error)
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
        facts = {
            **made.facts,
            "suffix": made.suffix,
            "bytes": size_bytes,
            "sha256": sha256,
            "notes": list(made.notes),
            "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock())),
        }
        _put(self._place(key, ".json"), canonical_json(facts))
        return _fetched(path, facts)

    def _remember(self, key: str, error: FetchError) -> None:
        refusal = {"code": error.code, "reason": error.reason, "time": self._clock()}
        _put(self._place(key, ".refused.json"), canonical_json(refusal))

    def _raise_remembered(self, key: str) -> None:
        refusal = _read_json(self._place(key, ".refused.json"))
        if refusal is None or self._refusals_h is None:
            return
        if refusal["time"] < self._unblocked_at_s.get(CODES[refusal["code"]].policy, 0.0):
            return
        if self._clock() - refusal["time"] < 3600 * self._refusals_h:
            raise FetchError(refusal["code"], f"{refusal['reason']} (asked before)")

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the source alone. The lock file goes with the lock, and the lock with the process."""
        path = self._place(f".lock-{key}", "", shard=key)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _still_named(handle, path):
                break
            os.close(handle)  # its last holder took the name away; lock the new file
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


def _fetched(path: Path, facts: Mapping[str, Any]) -> Fetched:
    return Fetched(
        path,
        facts["bytes"],
        facts["sha256"],
        tuple(facts["notes"]),
        format=facts.get("format"),
        title=facts.get("title"),
        fetched=facts["fetched"],
    )


def _still_named(handle: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return named.st_ino == os.fstat(handle).st_ino


def _put(path: Path, text: str) -> None:
    """Write a small file, whole or not at all. Not synced: what a power cut takes is fetched again."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The facts in `path`; None where there are none, or a power cut took them."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
