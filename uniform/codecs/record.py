"""Record of `uniform weights fetch`: per hub id the commit and the digest of each file.

The record is in the hub's cache, or in the folder that the weights were copied to. A codec that is opened by hub id
without a revision uses the recorded commit.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.errors import WeightsError

RECORD_NAME = "uniform-weights.json"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A fetched file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A fetched model."""

    hub_id: str
    commit: str | None
    """None where the hub's cache has no commit."""
    licence: str
    files: dict[str, FileRecord]
    """By path inside the repository."""


def cache_folder() -> Path:
    """The hub's cache, which also holds the record."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def read_records(folder: Path) -> dict[str, Record]:
    """Records by hub id; none where the folder has no record. Raises WeightsError for a damaged one."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        return {hub_id: _record(value) for hub_id, value in values.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a record of fetched weights ({error!r}). Delete it and fetch again."
        ) from error


def _record(value: dict[str, Any]) -> Record:
    return Record(**{**value, "files": {name: FileRecord(**file) for name, file in value["files"].items()}})


def write_record(folder: Path, record: Record) -> None:
    """Add `record` to those of `folder`; replaces an older one of the same hub id."""
    records = {**read_records(folder), record.hub_id: record}
    text = json.dumps({hub_id: asdict(entry) for hub_id, entry in records.items()}, indent=2, sort_keys=True)
    write_bytes(folder / RECORD_NAME, f"{text}\n".encode())


def recorded_commit(hub_id: str) -> str | None:
    """The commit of `hub_id` that was fetched last; None where none was."""
    record = read_records(cache_folder()).get(hub_id)
    return None if record is None else record.commit
