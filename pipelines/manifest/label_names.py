"""Tables that turn a listing's label codes into words."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipelines.manifest.listing_schema import LabelNames
from uniform.errors import ManifestError


def read_label_names(folder: Path, names: LabelNames) -> Mapping[str, str]:
    """Code -> words from the table `names.file` in `folder`.

    Raises: ManifestError where the file is missing, a line is too short, or a code has two names.
    """
    path = folder / names.file
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: the table of label names cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: byte {error.start} is not UTF-8. Save the table as UTF-8.") from error
    delimiter = "\t" if path.suffix == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, skipinitialspace=True)
    found: dict[str, str] = {}
    for cells in _lines(path, reader):
        if not cells or (names.header and reader.line_num == 1):
            continue
        if len(cells) <= max(names.code, names.name):
            raise ManifestError(
                f"{path}:{reader.line_num}: {len(cells)} cells; code and name are columns "
                f"{names.code} and {names.name}, counted from 0. Correct listing.label_names."
            )
        code, name = cells[names.code].strip(), cells[names.name].strip()
        if found.setdefault(code, name) != name:
            raise ManifestError(
                f"{path}:{reader.line_num}: code {code!r} is named {found[code]!r} and {name!r}; keep one."
            )
    return found


def _lines(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The lines of a table. Raises ManifestError for one that cannot be parsed."""
    try:
        yield from reader
    except csv.Error as error:
        raise ManifestError(f"{path}: the table of label names cannot be read ({error}). Correct the line.") from error
