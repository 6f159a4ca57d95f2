"""The result and the error of all fetchers: plain data that crosses processes and goes into the ledger."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.clip import Row
from pipelines.fetching.messages import clean_reason


@dataclass(frozen=True)
class Fetched:
    """A source on this machine's disk, complete and checked."""

    path: Path
    """Absolute."""
    size_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()
    """Notes for the ledger, for instance the chosen format."""
    format: str | None = None
    """The chosen format of a site, or the content type that the server names."""
    title: str | None = None
    """Title of the source on its site."""
    fetched: str | None = None
    """When it was fetched, in UTC as ISO 8601; None for a source that was on disk already."""


class FetchError(Exception):
    """A source could not be fetched.

    Args:
        code: one of `pipelines.codes.CODES`.
        reason: what was found, with the original message; cleaned and bounded here.
        retry_after_s: the wait that the host asks for.
    """

    def __init__(self, code: str, reason: str, retry_after_s: float | None = None) -> None:
        self.code = code
        self.reason = clean_reason(reason)
        super().__init__(f"{code}: {self.reason}")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["FetchError"], tuple[str, str, float | None]]:
        return type(self), (self.code, self.reason, self.retry_after_s)


class Fetcher(Protocol):
    """Fetches one kind of source."""

    def fetch(self, row: Row) -> Fetched:
        """The row's source as a file. Raises FetchError with a code."""
        ...
