"""A partial download on disk, kept between attempts with the validator of its content.

It is resumed only where the server sends the same content from exactly its end; otherwise it starts again.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.fetching.base import FetchError
from pipelines.fetching.http_answer import is_validator
from uniform.fingerprint import canonical_json
from uniform.untrusted_json import read_untrusted_json

MAX_METADATA_BYTES = 65_536


class PartialDownload:
    """A file that grows.

    Args:
        work: a folder of its own, with what an earlier attempt left.
    """

    def __init__(self, work: Path) -> None:
        self.path, self._metadata = work / "part", work / "part.json"
        found = self._read()
        self.validator, self.total, self.content_type = found or (None, None, "")
        self.sha256: str | None = None
        """Of the whole file, once it is complete."""
        # A partial download of unknown origin is never resumed.
        if found is None or self.total is None or self.offset >= self.total:
            self.path.unlink(missing_ok=True)

    @property
    def offset(self) -> int:
        """Bytes on disk."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def restart(self, validator: str | None, total: int | None, content_type: str) -> None:
        """Start again with content of this validator and length."""
        self.path.unlink(missing_ok=True)
        self.validator, self.total, self.content_type = validator, total, content_type
        self._metadata.write_text(canonical_json({"validator": validator, "total": total, "type": content_type}))

    def continues(self, content_range: str, validator: str | None) -> None:
        """Check that a partial response starts at our end, with the same content. Raises FetchError `changed`."""
        wanted = f"bytes {self.offset}-"
        total = content_range.rpartition("/")[2]
        if not content_range.startswith(wanted) or total != str(self.total) or validator not in (None, self.validator):
            found = f"the rest is {content_range!r} of {validator}, wanted {wanted}.../{self.total} of {self.validator}"
            self.restart(None, None, "")
            raise FetchError("changed", found)

    @contextmanager
    def growing(self) -> Iterator[Callable[[bytes], int]]:
        """Gives a function that appends a chunk and returns the bytes on disk."""
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
            raise FetchError(
                "changed", f"{size:,} bytes were written and {self.offset:,} are there: another process writes"
            )
        self.sha256 = digest.hexdigest()

    def _read(self) -> tuple[str | None, int | None, str] | None:
        """(validator, total, content type) of an earlier attempt; None where there is none, or it is not ours."""
        try:
            found = read_untrusted_json(self._metadata.read_bytes(), max_bytes=MAX_METADATA_BYTES)
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(found, dict) or not {"validator", "total", "type"} <= found.keys():
            return None
        validator, total, content_type = found["validator"], found["total"], found["type"]
        valid = (validator is None or is_validator(validator)) and isinstance(content_type, str)
        if not valid or not (total is None or (type(total) is int and total >= 0)):
            return None
        return validator, total, content_type
