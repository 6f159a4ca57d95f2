"""What every way of fetching gives and how it fails: plain data that crosses processes and goes into the ledger."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.clip import Row


@dataclass(frozen=True)
class Fetched:
    """A source that lies on this machine's disk, whole and checked."""

    path: Path
    """Absolute."""
    size_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()
    """Remarks for the ledger, for instance the format that was chosen."""
    format: str | None = None
    """What was chosen of what the source offers, or what its server calls it."""
    title: str | None = None
    """What the source calls itself."""
    fetched: str | None = None
    """When it came, in UTC as ISO 8601; None where it was here before."""


class FetchError(Exception):
    """A source that could not be had.

    Args:
        code: one of `pipelines.codes.CODES`.
        reason: what was found, with the original message; free of secrets.
        retry_after_s: the rest that the host asks for.
    """

    def __init__(self, code: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["FetchError"], tuple[str, str, float | None]]:
        return type(self), (self.code, self.reason, self.retry_after_s)


class Fetcher(Protocol):
    """One kind of source."""

    def fetch(self, row: Row) -> Fetched:
        """The row's source as a file. Raises FetchError with a code."""
        ...
