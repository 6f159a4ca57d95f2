"""The record that a fetch leaves beside the weights of an extractor: size and digest of every file."""

from pathlib import Path
from typing import Any

from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import PublishedWeights, find_file
from uniform.untrusted_json import read_untrusted_json

RECORD_NAME = "uniform-evaluation-weights.json"
RECORD_BYTES = 1_000_000


def read_record(folder: Path) -> dict[str, Any]:
    """Size and digest by file name; nothing where there is no record. Raises WeightsError for a damaged one."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            record = read_untrusted_json(file.read(RECORD_BYTES + 1), max_bytes=RECORD_BYTES)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a record of fetched weights ({error}). Delete it and fetch again.") from error
    entries = record.values() if isinstance(record, dict) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in entries):
        raise WeightsError(f"{path}: not a record of fetched weights. Delete it and fetch again.")
    found: dict[str, Any] = record
    return found


def recorded_files(weights: PublishedWeights, folder: Path) -> bool:
    """Whether each file of `weights` is there, in an installed package or named by the record of a fetch."""
    recorded = read_record(folder / weights.name)
    return all(
        (file.name in recorded or file.package is not None) and find_file(weights, file, folder) is not None
        for file in weights.files
        if not file.optional
    )
