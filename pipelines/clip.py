"""A clip on its way through the stages: a manifest row that never changes, named fields, and a verdict.

Clips are values: `with_fields`, `reject` and `fail` return a new clip, so a retried stage starts
from what it was given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of manifest.parquet: what a clip is, wherever it will be processed."""

    clip_id: str
    """16 hex digits of a hash of data set, source id, start and duration: no dot, no dash, no letter case."""
    dataset: str
    split: str
    source_kind: str
    """local, http, youtube, hf, archive"""
    source_id: str
    """Identity of the source across data sets, for instance a YouTube id; one source may give many clips."""
    source_uri: str
    """Where it is fetched from: an address, or a path inside the data set's root with forward slashes."""
    start_ms: int
    duration_ms: int
    labels: tuple[str, ...] = ()
    caption: str | None = None
    caption_origin: str | None = None
    """label, given, model or human; None without a caption."""
    expected_digest: str | None = None
    """SHA-256 of the source file, where the listing knows it."""
    license: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Why a clip left the road. `code` is one of `pipelines.codes.CODES`."""

    status: Status
    code: str
    reason: str


@dataclass(frozen=True)
class Clip:
    """A row, what the stages made of it so far, and its verdict once it has left the road."""

    row: Row
    fields: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    """Remarks for the ledger on a clip that stays, for instance "audio starts 1,476 ms late"."""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def with_fields(self, **fields: Any) -> "Clip":
        """The same clip with more fields."""
        return replace(self, fields={**self.fields, **fields})

    def note(self, remark: str) -> "Clip":
        """The same clip with one more remark for the ledger."""
        return replace(self, notes=(*self.notes, remark))

    def reject(self, code: str, reason: str) -> "Clip":
        """The clip is not wanted: its content is the reason. It leaves the road here."""
        return replace(self, verdict=Verdict("rejected", code, reason))

    def fail(self, code: str, reason: str) -> "Clip":
        """The clip could not be had or processed. It leaves the road here; the code's policy says whether for good."""
        return replace(self, verdict=Verdict("failed", code, reason))
