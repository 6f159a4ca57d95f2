"""A clip between two stages: its manifest row, which never changes, named fields, notes, and why it was dropped.

Clips are values: `with_fields`, `note` and `drop` return a new clip, so a stage that is retried starts from its inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from uniform.clean_text import clean_line
from uniform.media.notes import Note

LONGEST_REASON = 1_000
"""Characters of a drop reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of manifest.parquet: what a clip is, wherever it will be processed."""

    clip_id: str
    """16 hex digits of a hash of dataset, source id, start and duration: no dot, no dash, no letter case."""
    dataset: str
    split: str
    source_kind: str
    """local, http, youtube, hf, archive"""
    source_id: str
    """Identity of the source across datasets, for instance a YouTube id; one source may give many clips."""
    source_uri: str
    """Where it is fetched from: an address, or a path inside the dataset's root with forward slashes."""
    start_ms: int
    duration_ms: int
    labels: tuple[str, ...] = ()
    caption: str | None = None
    caption_origin: str | None = None
    """label, given, model or human; None without a caption."""
    expected_digest: str | None = None
    """SHA-256 of the source file, where the listing has it."""
    license: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def end_ms(self) -> int:
        """End of the clip in its source."""
        return self.start_ms + self.duration_ms


@dataclass(frozen=True)
class Drop:
    """Why a clip was dropped."""

    code: str
    """One of `pipelines.codes.CODES`; its policy decides whether a retry can help."""
    reason: str
    """One sentence for people."""


@dataclass(frozen=True)
class Clip:
    """A row, the fields that stages have added so far, and why it was dropped, if it was."""

    row: Row
    fields: Mapping[str, Any] = field(default_factory=dict)
    dropped: Drop | None = None
    """None while the clip is kept."""
    notes: tuple[Note, ...] = ()
    """For the ledger, on a kept clip: for instance on a gap in its audio."""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def with_fields(self, **fields: Any) -> "Clip":
        """The same clip with more fields."""
        return replace(self, fields={**self.fields, **fields})

    def note(self, note: Note) -> "Clip":
        """The same clip with one more note for the ledger."""
        return replace(self, notes=(*self.notes, note))

    def drop(self, code: str, reason: str) -> "Clip":
        """The clip, dropped: no later stage sees it.

        Args:
            code: one of `pipelines.codes.CODES`.
            reason: what was found and what was wanted, in one sentence; cleaned and bounded here.
        """
        return replace(self, dropped=Drop(code, clean_line(reason, LONGEST_REASON)))
