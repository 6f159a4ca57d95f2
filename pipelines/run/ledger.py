"""The ledger: one row for each clip that reached a stage, one Parquet part per unit, stage and attempt.

Parts are only ever added. The part that counts is the one that the unit's commit marker names; the others belong to
attempts whose process died. Always: clips in = kept + rejected + failed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines.clip import Clip
from pipelines.codes import CODES
from uniform.config import nearest
from uniform.errors import PipelineError
from uniform.media.notes import Note
from uniform.renamed import DROP_CODES, current
from uniform.tables import read_parquet, write_parquet

Status = Literal["ok", "rejected", "failed"]
OK = "ok"
"""Code of a kept clip."""

LEDGER_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("stage", pa.string()),
        ("status", pa.string()),  # ok, rejected, failed
        ("code", pa.string()),  # ok, or one of pipelines.codes.CODES
        ("reason", pa.string()),
        ("permanent", pa.bool_()),  # asking again changes nothing
        ("attempt", pa.int32()),
        ("started", pa.timestamp("ms", tz="UTC")),
        ("seconds", pa.float32()),
        ("worker", pa.string()),
        ("recipe", pa.string()),
        ("output", pa.string()),  # file that holds the result, relative to the run directory
        ("bytes", pa.int64()),
        ("unit", pa.int32()),
        ("notes", pa.list_(pa.string())),  # of this stage on a kept clip: texts of uniform.media.notes
    ]
)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many clips reached a stage, by code."""

    clips: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    """Clips by code, "ok" among them."""

    @property
    def kept(self) -> int:
        """Clips that the stage kept."""
        return self.codes.get(OK, 0)

    @property
    def rejected(self) -> int:
        """Clips whose content is not wanted or not usable."""
        return sum(count for code, count in self.codes.items() if code != OK and status_of(code) == "rejected")

    @property
    def failed(self) -> int:
        """Clips that could not be fetched or processed."""
        return sum(count for code, count in self.codes.items() if code != OK and status_of(code) == "failed")

    def __add__(self, other: "Tally") -> "Tally":
        codes = Counter(self.codes)
        codes.update(other.codes)
        return Tally(clips=self.clips + other.clips, codes=dict(sorted(codes.items())))

    def require_complete(self, where: str) -> None:
        """Raises PipelineError where a clip is not accounted for."""
        if self.clips != self.kept + self.rejected + self.failed:
            raise PipelineError(
                f"{where}: {self.clips} clips went in, but {self.kept} kept + {self.rejected} rejected + "
                f"{self.failed} failed = {self.kept + self.rejected + self.failed}. A clip was lost; this is a bug."
            )

    def __str__(self) -> str:
        return f"{self.clips} clips = {self.kept} kept + {self.rejected} rejected + {self.failed} failed"


def status_of(code: str) -> Status:
    """The status that belongs to a code's policy. Raises PipelineError for a code that the closed list lacks."""
    if code == OK:
        return "ok"
    if code not in CODES:
        raise PipelineError(f"'{code}' is no ledger code{nearest(code, CODES)}. Add it to pipelines/codes.py.")
    return "rejected" if CODES[code].policy == "rejected" else "failed"


def row(clip: Clip, *, notes: tuple[Note, ...], **columns: Any) -> dict[str, Any]:
    """A ledger row of a clip that a stage returned.

    Args:
        clip: kept or dropped.
        notes: the notes that this stage added.
        columns: the other columns: stage, attempt, started, seconds, worker, recipe, output, bytes, unit.
    Raises: PipelineError where the drop code is unknown.
    """
    if clip.dropped is None:
        result: dict[str, Any] = {"status": "ok", "code": OK, "reason": "; ".join(map(str, notes)), "permanent": False}
    else:
        result = {
            "status": status_of(clip.dropped.code),
            "code": clip.dropped.code,
            "reason": clip.dropped.reason,
            "permanent": CODES[clip.dropped.code].remedy is None,
        }
    return {"clip_id": clip.row.clip_id, **result, "notes": [note.text() for note in notes], **columns}


def write_part(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one ledger part, whole or not at all."""
    write_parquet(path, pa.Table.from_pylist(list(rows), schema=LEDGER_SCHEMA))


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a ledger part. Raises PipelineError where it is missing or damaged."""
    fix = "Remove the unit's file below commits/ and run again: only that unit is made again."
    table = read_parquet(path, PipelineError, "the ledger part of a committed unit", columns, fix=fix)
    if "code" not in table.column_names:
        return table
    codes = [current(code, DROP_CODES) for code in table["code"].to_pylist()]
    return table.set_column(table.column_names.index("code"), "code", pa.array(codes, pa.string()))


def kept_ids(path: Path) -> list[str]:
    """Ids of the kept clips, in their order."""
    table = read_part(path, ["clip_id", "code"])
    pairs = zip(table["clip_id"].to_pylist(), table["code"].to_pylist(), strict=True)
    return [clip_id for clip_id, code in pairs if code == OK]


def tally_of(codes: Iterable[str]) -> Tally:
    """The tally of a list of codes, one per clip."""
    counts = Counter(codes)
    return Tally(clips=counts.total(), codes=dict(sorted(counts.items())))


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """One tally of many."""
    total = Tally()
    for tally in tallies:
        total += tally
    return total


def hours_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Ledger rows by the hour (UTC, "2026-11-25T16") in which they ended: hour -> code -> clips."""
    counts = Counter(
        ((row["started"] + timedelta(seconds=row["seconds"])).strftime("%Y-%m-%dT%H"), row["code"]) for row in rows
    )
    hours: dict[str, dict[str, int]] = {}
    for (hour, code), clips in sorted(counts.items()):
        hours.setdefault(hour, {})[code] = clips
    return hours


def now() -> datetime:
    """The time for the ledger's `started` column."""
    return datetime.now(UTC)
