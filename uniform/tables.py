"""Parquet tables on disk: one reader that explains a damaged file, and one writer that never leaves half a file."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from uniform.atomic import replacing
from uniform.errors import UniformError

LOCAL = LocalFileSystem()
"""The file system of every local path: without it pyarrow takes a colon in a path for the end of a protocol."""


def local_name(path: Path) -> str:
    """A path as `LOCAL` takes it: absolute, since it takes a relative `s3:x/y` for a URI."""
    return str(path.absolute())


def read_parquet(
    path: Path, error_type: type[UniformError], what: str, columns: Sequence[str] | None = None, *, fix: str = ""
) -> pa.Table:
    """Read a Parquet file.

    Args:
        error_type: raised where the file is missing, damaged, or lacks a column.
        what: what the file is, for the error: "the ledger part of a committed unit".
        columns: names of the columns to read; None reads them all.
        fix: what the user can do about it, for the error.
    """
    try:
        return pq.read_table(
            local_name(path), columns=None if columns is None else list(columns), partitioning=None, filesystem=LOCAL
        )
    except (OSError, pa.ArrowException) as error:
        message = f"{path}: {what} cannot be read ({error})"
        raise error_type(f"{message}. {fix}" if fix else message) from error


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table; the file appears whole or not at all. The same table gives the same bytes."""
    with replacing(path) as temporary:
        pq.write_table(table, local_name(temporary), filesystem=LOCAL)
