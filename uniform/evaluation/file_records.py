"""Small tables that only grow: one Parquet file a part, whole or not there, so that several processes may add."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uniform.atomic import replacing
from uniform.errors import InputError


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All rows of all parts. Raises InputError for a part that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []:
        try:
            rows += pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged ({error}). Remove it; what it held is found again.") from error
    return rows


def write_records(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add a part; nothing for no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not rows:
        return
    with replacing(folder / f"part-{uuid.uuid4().hex}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
