"""Commit markers: a small JSON file, written last, that makes a unit's results count.

It holds the inputs that determine the results, so that a later run can compare them with those of now, and show what
changed.
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
from uniform.renamed import COMMIT_KEYS, DROP_CODES, current

_KEYS_ON_DISK: Mapping[str, str] = {new: old for old, new in COMMIT_KEYS.items()}
"""Field -> its key in the file, which stays that of version 0.3.0."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One unit of one stage, finished."""

    stage: str
    unit: int
    inputs: Mapping[str, Any]
    """clips, rows, provenance, spec, upstream: everything that determines the results. See `RunInputs.of_unit`."""
    kept: str
    """Digest of the ids of the kept clips, in order."""
    codes: Mapping[str, int]
    clips: int
    ledger: str
    """The ledger part that counts, relative to the run directory."""
    attempt: int
    seconds: float
    worker: str
    artifact: str | None = None
    sha256: str | None = None
    bytes: int = 0
    ended: float | None = None
    """When the unit was committed, in seconds since 1970; None in markers of earlier versions."""
    hours: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Hour (UTC, "2026-11-25T16") -> code -> clips that ended in it."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints: equal results."""
        return digest(self.inputs)

    @property
    def tally(self) -> Tally:
        """The unit's clips by code."""
        return Tally(clips=self.clips, codes=self.codes)

    def write(self, path: Path) -> None:
        """Make the unit count."""
        values = {_KEYS_ON_DISK.get(name, name): value for name, value in asdict(self).items()}
        text = json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False)
        write_bytes(path, f"{text}\n".encode())


def read_commit(path: Path) -> Commit | None:
    """The commit marker at `path`; None where the unit is not committed. Raises PipelineError for a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _current(json.loads(content))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise PipelineError(
            f"{path}: not a commit marker ({error}). Remove it and run again: that unit is made again."
        ) from error


def _current(values: dict[str, Any]) -> Commit:
    """A commit from the values of its file; names of drop codes may be those of version 0.3.0."""
    values = {current(key, COMMIT_KEYS): value for key, value in values.items()}
    codes = _current_codes(values.pop("codes"))
    hours = {hour: _current_codes(counts) for hour, counts in values.pop("hours", {}).items()}
    return Commit(**values, codes=codes, hours=hours)


def _current_codes(counts: Mapping[str, int]) -> dict[str, int]:
    return {current(code, DROP_CODES): count for code, count in counts.items()}


def difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What changed between two records of inputs, one readable line each. None in `after` means not known yet."""
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
