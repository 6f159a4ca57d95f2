"""The record that a fetch leaves beside the weights of an extractor: size and digest of every file."""

import json
from pathlib import Path
from typing import Any

from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import PublishedWeights, find_file

RECORD_NAME = "uniform-evaluation-weights.json"


def read_record(folder: Path) -> dict[str, Any]:
    """Size and digest by file name; nothing where there is no record. Raises WeightsError for a damaged one."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a record of fetched weights ({error}). Delete it and fetch again.") from error
    if not isinstance(record, dict) or not all(isinstance(entry, dict) for entry in record.values()):
        raise WeightsError(f"{path}: not a record of fetched weights. Delete it and fetch again.")
    return record


def recorded_files(weights: PublishedWeights, folder: Path) -> bool:
    """Whether the record of a fetch names every file of `weights`, and each is there."""
    recorded = read_record(folder / weights.name)
    return all(file.name in recorded and find_file(weights, file, folder) is not None for file in weights.files)
