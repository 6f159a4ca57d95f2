"""Features on disk: parts of safetensors, each with an index that is written last and makes the part count.

    <cache>/<extractor>-<key>/part-<id>.safetensors   arrays "<row>/<output>", float32
    <cache>/<extractor>-<key>/part-<id>.parquet       one row a clip: content, row, code, reason

The key is the digest of everything that the numbers depend on but the clip: reading rule, extractor, its code version
and weights. `content` is the clip: the file's SHA-256, its start, and what was done to it. A kill loses at most the
part that was being made; parts are never rewritten, so several processes may add to one folder.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uniform.atomic import replacing
from uniform.errors import InputError

PART_CLIPS = 256
OK = "ok"
_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")
_ROW = re.compile(r"[0-9]+")


@dataclass(frozen=True, kw_only=True)
class FeatureRow:
    """What is known of one clip under one key: its arrays, or why there are none."""

    content: str
    arrays: Mapping[str, np.ndarray]
    code: str = OK
    reason: str = ""


class FeatureStore:
    """The features of one key. Reads the index at once and arrays when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[str, int]] = {}
        self._drops: dict[str, tuple[str, str]] = {}
        for path in sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []:
            if _NAME.fullmatch(path.name):
                self._read_index(path)

    def __contains__(self, content: str) -> bool:
        return content in self._places or content in self._drops

    def drop(self, content: str) -> tuple[str, str] | None:
        """Code and reason of a clip that has no features; None for another."""
        return self._drops.get(content)

    def add(self, rows: Sequence[FeatureRow]) -> None:
        """Write a part: arrays first, then the index that makes it count."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save_file

        if not rows:
            return
        name = f"part-{uuid.uuid4().hex}"
        arrays = {
            f"{number}/{output}": np.ascontiguousarray(value, np.float32)
            for number, row in enumerate(rows)
            for output, value in row.arrays.items()
        }
        if arrays:
            with replacing(self.folder / f"{name}.safetensors") as temporary:
                save_file(arrays, temporary)
        columns = {
            "content": [row.content for row in rows],
            "row": list(range(len(rows))),
            "code": [row.code for row in rows],
            "reason": [row.reason for row in rows],
        }
        with replacing(self.folder / f"{name}.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary)
        for number, row in enumerate(rows):
            self._note(row.content, f"{name}.safetensors", number, row.code, row.reason)

    def read(self, contents: Iterable[str], outputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Arrays of clips that are in the store, in their order. Each file is opened once.

        Raises: InputError for a part that is damaged.
        """
        from safetensors import SafetensorError, safe_open

        wanted = list(contents)
        by_file: dict[str, list[int]] = {}
        for position, content in enumerate(wanted):
            by_file.setdefault(self._places[content][0], []).append(position)
        found: list[dict[str, np.ndarray]] = [{} for _ in wanted]
        for name, positions in by_file.items():
            try:
                with safe_open(self.folder / name, framework="np") as file:
                    for position in positions:
                        row = self._places[wanted[position]][1]
                        found[position] = {output: file.get_tensor(f"{row}/{output}") for output in outputs}
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{self.folder / name}: damaged ({error}). Remove {self.folder}; its features are made again."
                ) from error
        return found

    def _read_index(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            rows = table.to_pylist()
            for row in rows:
                self._note(row["content"], f"{path.stem}.safetensors", int(row["row"]), row["code"], row["reason"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged ({error}). Remove it and {path.stem}.safetensors; their features are made again."
            ) from error

    def _note(self, content: str, file: str, row: int, code: str, reason: str) -> None:
        if code == OK:
            self._places[content] = (file, row)
        else:
            self._drops[content] = (code, reason)
