"""What has come of a source so far, on disk between attempts, and by what the server names that content.

A part is gone on with only where the same content goes on exactly where it stands; otherwise it is begun anew.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.fetching.base import FetchError
from uniform.fingerprint import canonical_json


class Part:
    """A file that grows.

    Args:
        work: a folder of its own, which may hold what an earlier attempt left.
    """

    def __init__(self, work: Path) -> None:
        self.path, self._facts = work / "part", work / "part.json"
        self.validator: str | None = None
        self.total: int | None = None
        self.content_type = ""
        self.sha256: str | None = None
        """Of the whole file, once it has come."""
        try:
            found = json.loads(self._facts.read_bytes())
            self.validator, self.total, self.content_type = found["validator"], found["total"], found["type"]
        except (FileNotFoundError, ValueError, KeyError):
            self.path.unlink(missing_ok=True)  # a part of unknown origin must not be gone on with
        if self.total is None or self.offset >= self.total:
            self.path.unlink(missing_ok=True)

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def restart(self, validator: str | None, total: int | None, content_type: str) -> None:
        """Begin anew with content of this name and length."""
        self.path.unlink(missing_ok=True)
        self.validator, self.total, self.content_type = validator, total, content_type
        facts = {"validator": validator, "total": total, "type": content_type}
        self._facts.write_text(canonical_json(facts))

    def continues(self, content_range: str, validator: str | None) -> None:
        """Check that a partial answer goes on where we stand, with the same content. Raises FetchError `changed`."""
        wanted = f"bytes {self.offset}-"
        total = content_range.rpartition("/")[2]
        if not content_range.startswith(wanted) or total != str(self.total) or validator not in (None, self.validator):
            found = f"the rest is {content_range!r} of {validator}, wanted {wanted}.../{self.total} of {self.validator}"
            self.restart(None, None, "")
            raise FetchError("changed", found)

    @contextmanager
    def growing(self) -> Iterator[Callable[[bytes], int]]:
        """Gives a function that appends a chunk and returns the bytes that are there now."""
        digest, size = hashlib.sha256(), self.offset
        if size:
            with self.path.open("rb") as before:
                digest = hashlib.file_digest(before, "sha256")
        with self.path.open("ab") as file:

            def append(chunk: bytes) -> int:
                nonlocal size
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                return size

            yield append
        if self.offset != size:
            raise FetchError("changed", f"{size:,} bytes were written and {self.offset:,} are there: who else writes?")
        self.sha256 = digest.hexdigest()
