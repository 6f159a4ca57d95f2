"""The fields that earlier stages made for a unit, read one clip at a time and only where a stage needs them."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import pyarrow as pa

from pipelines.recipe import Recipe, StageStep
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import read_part
from uniform.errors import PipelineError, ShardError
from uniform.media.notes import Note, read_note
from uniform.tables import read_parquet


class _Source(Protocol):
    def read(self, clip_id: str, field: str) -> Any: ...

    def close(self) -> None: ...


class _Tar:
    """Members of a tar by their offsets, each checked against its sum."""

    def __init__(self, path: Path, members: Path) -> None:
        self._path = path
        table = _parquet(members)
        columns = (table[name].to_pylist() for name in ("clip_id", "field", "offset", "bytes", "crc32"))
        self._places = {(clip_id, field): place for clip_id, field, *place in zip(*columns, strict=True)}
        self._file: IO[bytes] = _open(path)

    def read(self, clip_id: str, field: str) -> bytes:
        offset, size, crc32 = self._places[clip_id, field]
        self._file.seek(offset)
        content = self._file.read(size)
        if zlib.crc32(content) != crc32:
            raise ShardError(f"{self._path}: the bytes of '{clip_id}.{field}' are damaged. {_fix(self._path)}")
        return content

    def close(self) -> None:
        self._file.close()


class _Table:
    """Rows of a unit's table; they are short texts and numbers, so they are all held."""

    def __init__(self, path: Path) -> None:
        table = _parquet(path)
        self._rows = dict(zip(table["clip_id"].to_pylist(), table.to_pylist(), strict=True))

    def read(self, clip_id: str, field: str) -> Any:
        return self._rows[clip_id][field]

    def close(self) -> None:
        self._rows.clear()


class UnitFields:
    """The fields that a stage needs, for the clips of one unit.

    Args:
        ledgers: stage -> its ledger part of the unit that counts, for every stage that the fields are made from.
    Raises: ShardError where a file is missing or damaged.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, stage: str, unit: int, ledgers: Mapping[str, str]) -> None:
        self._producers = recipe.producers(stage)
        self._unit = unit
        self._sources: dict[str, _Source] = {}
        self._notes: dict[str, tuple[Note, ...]] = {}
        try:
            for step in {producer.name: producer for producer in self._producers.values()}.values():
                self._sources[step.name] = _source(folder, step, unit)
            for step in recipe.ancestors(stage):
                self._read_notes(folder.inside(ledgers[step.name]))
        except BaseException:
            self.close()
            raise

    def _read_notes(self, ledger: Path) -> None:
        table = read_part(ledger, ["clip_id", "notes"])
        for clip_id, notes in zip(table["clip_id"].to_pylist(), table["notes"].to_pylist(), strict=True):
            if notes:
                self._notes[clip_id] = (*self._notes.get(clip_id, ()), *map(read_note, notes))

    def read(self, clip_id: str) -> Mapping[str, Any]:
        """The needed fields of one clip."""
        try:
            return {field: self._sources[step.name].read(clip_id, field) for field, step in self._producers.items()}
        except KeyError as error:
            raise ShardError(
                f"unit {self._unit}: {error.args[0]} of clip {clip_id} is in no file, though the clip was kept; "
                f"a file of the run directory was replaced"
            ) from error

    def notes(self, clip_id: str) -> tuple[Note, ...]:
        """Notes of the stages that the needed fields come from, in order."""
        return self._notes.get(clip_id, ())

    def close(self) -> None:
        """Close the files."""
        for source in self._sources.values():
            source.close()

    def __enter__(self) -> "UnitFields":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _source(folder: RunFolder, step: StageStep, unit: int) -> _Source:
    path = folder.artifact(step.stage.store, unit)
    if path is None:
        raise PipelineError(f"stage '{step.name}' writes no artifact that another stage could need")
    if step.stage.store.kind == "tar":
        return _Tar(path, folder.members(step.name, unit))
    return _Table(path)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}). {_fix(path)}") from error


def _parquet(path: Path) -> pa.Table:
    return read_parquet(path, ShardError, "the artifact of a committed unit", fix=_fix(path))


def _fix(path: Path) -> str:
    return (
        f"It was committed and has been removed or altered since. To make it again, remove the commit marker of unit "
        f"{path.stem[-6:]} below commits/ for the stage that made it, and run again."
    )
