"""Read and write tables of captions for editing: CSV or Parquet, one row per clip."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniform.atomic import replacing, write_bytes
from uniform.config import nearest
from uniform.errors import ConfigError, InputError
from uniform.tables import LOCAL, local_name

COLUMNS = ("clip_id", "dataset", "split", "labels", "source", "caption", "origin")
"""Columns of an exported table; `clip_id`, `caption` and `origin` are read back."""
LONGEST_FIELD = 1_000_000
"""Characters of one CSV field."""


def require_set_name(where: str, name: str) -> None:
    """Raise ConfigError where `name` cannot name a caption set; it becomes part of file and column names."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise ConfigError(f"{where} is {name!r}; it must be lower case letters, digits, _ and -")


def read_captions(path: Path) -> dict[str, tuple[str, str]]:
    """Clip id -> (caption, origin); the origin is "human" where the table has none.

    Raises: InputError for another file type, a missing column, and a clip that is repeated or has no caption.
    """
    rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    found: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        clip_id, caption = row["clip_id"], row["caption"]
        where = f"{path}, line {number}, clip '{clip_id}'"
        if not isinstance(clip_id, str) or not isinstance(caption, str):
            raise InputError(f"{where}: clip_id and caption must be text")
        if clip_id in found:
            raise InputError(f"{where}: the clip is in the table twice")
        if not caption.strip():
            raise InputError(f"{where}: the caption is empty. Write one, or remove the row.")
        found[clip_id] = caption, str(row.get("origin") or "human")
    return found


def write_captions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the keys of COLUMNS atomically, as .csv or .parquet by the suffix of `path`.

    Raises: InputError for another suffix.
    """
    if path.suffix == ".parquet":
        schema = pa.schema([(name, pa.string()) for name in COLUMNS])
        with replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), local_name(temporary), filesystem=LOCAL)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(path, text.getvalue().encode("utf-8-sig"))  # spreadsheets detect UTF-8 by the byte order mark
    else:
        raise InputError(f"{path}: the file name must end in .csv or .parquet")


def _csv(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8. Save the table as CSV in UTF-8.") from error
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _require_columns(path, reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table with commas ({error})") from error
    finally:
        csv.field_size_limit(before)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {number}: the number of fields differs from the header. Quote captions with commas."
            )
    return rows


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        table = pq.read_table(local_name(path), partitioning=None, filesystem=LOCAL)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
    _require_columns(path, table.column_names)
    rows: list[Mapping[str, Any]] = table.to_pylist()
    return rows


def _require_columns(path: Path, names: Sequence[str]) -> None:
    for wanted in ("clip_id", "caption"):
        if wanted not in names:
            raise InputError(f"{path}: there is no column '{wanted}'{nearest(wanted, names)}")
