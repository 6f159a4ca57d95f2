"""Commit markers: a small JSON file, written last, that makes a unit's results count.

It remembers what the results were made of, so that a later run can say whether they are still what the recipe asks
for, and if not, what changed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.run.ledger import Tally
from uniform.atomic import write_bytes
from uniform.errors import PipelineError
from uniform.fingerprint import digest


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One unit of one stage, finished."""

    stage: str
    unit: int
    made_of: Mapping[str, Any]
    """clips, rows, provenance, spec, upstream: everything that decides the results. See `plan.made_of`."""
    kept: str
    """Digest of the ids of the clips that stayed, in order."""
    codes: Mapping[str, int]
    clips: int
    ledger: str
    """The ledger part that counts, relative to the run's folder."""
    attempt: int
    seconds: float
    worker: str
    artifact: str | None = None
    sha256: str | None = None
    bytes: int = 0
    ended: float | None = None
    """When the unit was committed, in seconds since 1970; None in markers of earlier versions."""
    hours: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Hour (UTC, "2026-11-25T16") -> code -> clips that were judged in it."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints: equal results."""
        return digest(self.made_of)

    @property
    def tally(self) -> Tally:
        """What became of the unit's clips."""
        return Tally(clips=self.clips, codes=self.codes)

    def write(self, path: Path) -> None:
        """Make the unit count."""
        text = json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False)
        write_bytes(path, f"{text}\n".encode())


def read_commit(path: Path) -> Commit | None:
    """The commit marker at `path`; None where the unit is not committed. Raises PipelineError for a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Commit(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise PipelineError(
            f"{path}: not a commit marker ({error}). Remove it and run again: that unit is made again."
        ) from error


def difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What changed between two `made_of` records, one readable line each. None in `after` means not known yet."""
    lines: list[str] = []
    for key in sorted({*before, *after}):
        name = f"{prefix}.{key}" if prefix else key
        old, new = before.get(key, "(nothing)"), after.get(key, "(nothing)")
        if new is None and prefix in ("", "upstream"):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += difference(old, new, name)
        elif old != new:
            lines.append(f"{name}: {_short(old)} -> {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
