"""How clips are cut into units of work: decided once, kept in units.parquet, only ever added to.

A unit of work is a shard. Clips are put in the order of a hash of their id, so that each unit is a fair sample, and
cut every `unit_clips`. A clip that is planned again, or that the manifest names later, goes into a further unit: a
committed shard is never written again. Where a clip is in several units, its last one counts.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.disk import writing_to
from pipelines.manifest.table import SCHEMA, rows_of
from pipelines.run.folder import RunFolder
from uniform.errors import PipelineError
from uniform.fingerprint import digest
from uniform.tables import LOCAL, local_name, write_parquet

UNITS_SCHEMA = pa.schema([("unit", pa.int32()), ("clip_id", pa.string()), ("origin", pa.string())])
"""`origin` is why the unit exists: pilot, first, added, or retry:<code>."""

ID_COLUMNS = frozenset({"clip_id", "dataset", "source_id", "start_ms", "duration_ms"})
"""Row columns that the clip's id is a hash of: they cannot change under one id."""
ROW_COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)


@dataclass(frozen=True)
class Units:
    """The plan and the clips of a run."""

    plan: pa.Table
    clips: pa.Table

    @staticmethod
    def read(folder: RunFolder) -> "Units":
        """The units of a run. Raises PipelineError where the folder is not a run directory."""
        for path in (folder.manifest, folder.units):
            if not path.exists():
                raise PipelineError(
                    f"{path}: not found, so {folder.path} is not a run directory. Start a run: "
                    f"uniform pipeline run MANIFEST.toml --recipe toy --out {folder.path}"
                )
        try:
            return Units(
                pq.read_table(local_name(folder.units), schema=UNITS_SCHEMA, filesystem=LOCAL),
                pq.read_table(local_name(folder.manifest), schema=SCHEMA, filesystem=LOCAL),
            )
        except (pa.ArrowException, OSError) as error:
            raise PipelineError(f"{folder.path}: its manifest or units cannot be read ({error})") from error

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """First and last place of each unit in the plan."""
        units = self.plan["unit"].to_numpy()
        steps = np.diff(units, prepend=-1)
        wrong = np.flatnonzero((steps != 0) & (steps != 1))
        if len(wrong):
            previous = units[wrong[0] - 1] if wrong[0] else -1
            raise PipelineError(f"units.parquet: unit {units[wrong[0]]} follows unit {previous}; the file was altered")
        starts = [*np.flatnonzero(steps).tolist(), len(units)]
        return list(itertools.pairwise(starts))

    @cached_property
    def _planned(self) -> pa.Table:
        """The manifest's row of each line of the plan: a unit's rows are a slice of it."""
        places = pc.index_in(self.plan["clip_id"], value_set=self.clips["clip_id"].combine_chunks())
        if places.null_count:
            lost = self.plan.filter(pc.is_null(places)).slice(0, 1).to_pylist()[0]
            raise PipelineError(
                f"unit {lost['unit']} holds clip {lost['clip_id']}, which is not in manifest.parquet; one of them "
                f"was altered"
            )
        return self.clips.combine_chunks().take(places)

    @cached_property
    def _digests(self) -> dict[int, dict[str, str]]:
        return {}

    @cached_property
    def last_unit(self) -> dict[str, int]:
        """For each planned clip: the unit that counts."""
        return dict(zip(self.plan["clip_id"].to_pylist(), self.plan["unit"].to_pylist(), strict=True))

    @cached_property
    def superseded(self) -> dict[int, frozenset[str]]:
        """For each unit: its clips that are in a later unit too. Units without such clips are left out."""
        found: dict[int, set[str]] = {}
        if len(self.last_unit) == self.plan.num_rows:
            return {}
        for clip_id, unit in zip(self.plan["clip_id"].to_pylist(), self.plan["unit"].to_pylist(), strict=True):
            if self.last_unit[clip_id] != unit:
                found.setdefault(unit, set()).add(clip_id)
        return {unit: frozenset(ids) for unit, ids in found.items()}

    def __len__(self) -> int:
        return len(self._spans)

    def ids(self, unit: int) -> list[str]:
        """Clip ids of a unit, in their order."""
        start, end = self._spans[unit]
        found: list[str] = self.plan["clip_id"].slice(start, end - start).to_pylist()
        return found

    def origin(self, unit: int) -> str:
        """Why the unit exists: pilot, first, added, or retry:<code>."""
        return str(self.plan["origin"][self._spans[unit][0]])

    @cached_property
    def origins(self) -> frozenset[str]:
        """Why there are units: all the reasons."""
        return frozenset(self.plan["origin"].unique().to_pylist())

    def rows(self, unit: int) -> tuple[Row, ...]:
        """Manifest rows of a unit, in their order."""
        return tuple(rows_of(self._table(unit)))

    def _table(self, unit: int) -> pa.Table:
        start, end = self._spans[unit]
        return self._planned.slice(start, end - start)

    def row_digests(self, unit: int, columns: Iterable[str]) -> dict[str, str]:
        """Per manifest column that a clip's id is not a hash of: a digest of its values in the unit."""
        wanted = [column for column in columns if column not in ID_COLUMNS]
        known = self._digests.setdefault(unit, {})
        missing = [column for column in wanted if column not in known]
        if missing:
            table = self._table(unit)
            known.update({column: digest(table[column].to_pylist()) for column in missing})
        return {column: known[column] for column in wanted}

    def with_clips(self, clip_ids: Sequence[str], unit_clips: int, origin: str) -> "Units":
        """The same units and further ones that hold `clip_ids`."""
        first = len(self)
        ordered = in_order(clip_ids)
        added = pa.table(
            {
                "unit": pa.array([first + place // unit_clips for place in range(len(ordered))], pa.int32()),
                "clip_id": pa.array(ordered, pa.string()),
                "origin": pa.array([origin] * len(ordered), pa.string()),
            }
        )
        return Units(pa.concat_tables([self.plan, added]), self.clips)

    def write(self, folder: RunFolder) -> None:
        """Write the clips and the plan, each whole or not at all; the plan last, as it names the clips."""
        with writing_to(folder.path):
            for path, table in ((folder.manifest, self.clips), (folder.units, self.plan)):
                write_parquet(path, table)


def no_units(clips: pa.Table) -> Units:
    """A manifest without units. Raises PipelineError for a manifest of zero rows."""
    if not clips.num_rows:
        raise PipelineError("the manifest names no clip, so there is nothing to prepare; look at its listing")
    return Units(UNITS_SCHEMA.empty_table(), clips)


def first_units(clips: pa.Table, unit_clips: int, limit: int | None) -> Units:
    """Cut a manifest into units. Raises PipelineError for a manifest of zero rows."""
    return no_units(clips).with_clips(in_order(clips["clip_id"].to_pylist())[:limit], unit_clips, "first")


def in_order(clip_ids: Iterable[str]) -> list[str]:
    """Clip ids in the order in which they are cut into units: by hash, not in the order of the listing."""
    return sorted(clip_ids, key=lambda clip_id: hashlib.blake2b(clip_id.encode(), digest_size=8).digest())
