"""Which units are done, which are stale and why, and which are pending: what a run would do, without doing it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.recipe import StageStep
from pipelines.run.commits import Commit, difference
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import Tally, sum_tallies
from pipelines.run.provenance import RunInputs
from pipelines.run.state import RunState
from uniform.errors import PipelineError
from uniform.tables import LOCAL, local_name

Condition = Literal["done", "stale", "pending"]
MOST_CHANGES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """One unit of one stage, compared with the recipe and the manifest of now."""

    stage: str
    unit: int
    condition: Condition
    commit: Commit | None = None
    reasons: tuple[str, ...] = ()
    """For a stale unit: what changed, old -> new."""


@dataclass(frozen=True)
class Plan:
    """Every unit of the stages that were asked for."""

    stages: Mapping[str, tuple[UnitPlan, ...]]

    def of(self, stage: str, condition: Condition) -> list[UnitPlan]:
        """The units of a stage that are in a condition."""
        return [unit for unit in self.stages[stage] if unit.condition == condition]

    @property
    def stale(self) -> list[UnitPlan]:
        """Every stale unit, in the order of the stages."""
        return [unit for stage in self.stages for unit in self.of(stage, "stale")]

    @property
    def finished(self) -> bool:
        """True where nothing is left to do."""
        return all(unit.condition == "done" for units in self.stages.values() for unit in units)

    def tally(self, stage: str) -> Tally:
        """Clips of the stage's finished units by code, clips of superseded units included."""
        return sum_tallies([unit.commit.tally for unit in self.of(stage, "done") if unit.commit])


def make_plan(state: RunState, inputs: RunInputs, steps: Sequence[StageStep]) -> Plan:
    """Compare the commits of a run with the recipe and the manifest of now.

    Args:
        state: commits of these stages and of those before them; the stages before are taken as done.
        steps: stages that follow each other.
    """
    fresh, planned = state, dict[str, tuple[UnitPlan, ...]]()
    for step in steps:
        units = tuple(unit_plan(step, unit, fresh, planned, inputs) for unit in range(len(inputs.units)))
        planned[step.name] = units
        fresh = fresh.without(step.name, [one.unit for one in units if one.condition == "stale"])
    return Plan(planned)


def unit_plan(
    step: StageStep, unit: int, fresh: RunState, planned: Mapping[str, Sequence[UnitPlan]], inputs: RunInputs
) -> UnitPlan:
    """Compare one unit of one stage. `planned` holds the plans of the stages before it."""
    commit = fresh.commits[step.name][unit]
    if commit is None:
        return UnitPlan(stage=step.name, unit=unit, condition="pending")
    reasons = difference(commit.inputs, inputs.of_unit(step, unit, fresh))
    reasons += [
        f"upstream.{name}: will be made again"
        for name in inputs.producers(step)
        if name in planned and planned[name][unit].condition == "stale"
    ]
    condition: Condition = "stale" if reasons else "done"
    return UnitPlan(stage=step.name, unit=unit, condition=condition, commit=commit, reasons=tuple(reasons))


def invalidate(folder: RunFolder, plan: Plan, state: RunState, *, replace_stale: bool) -> RunState:
    """Remove the commits of stale units, and the index where it names units that will be made. Returns what is left.

    A shard whose bytes may change must not be named by an index, and a stage must not look finished after a kill
    while the stage that it was made from is not: the index goes first, then the markers, the last stage's first.

    Raises: PipelineError that names the differences where a unit is stale and `replace_stale` is False; nothing is
        removed then.
    """
    if plan.stale and not replace_stale:
        raise PipelineError(_stale_message(folder, plan))
    unfinished = {one.unit for units in plan.stages.values() for one in units if one.condition != "done"}
    if unfinished and _index_names_any(folder, unfinished):
        folder.index.unlink(missing_ok=True)
        folder.card.unlink(missing_ok=True)
    for stage in reversed(list(plan.stages)):
        stale = [one.unit for one in plan.of(stage, "stale")]
        for unit in stale:
            folder.commit(stage, unit).unlink(missing_ok=True)
        state = state.without(stage, stale)
    return state


def _stale_message(folder: RunFolder, plan: Plan) -> str:
    changes = Counter((one.stage, reason) for one in plan.stale for reason in one.reasons)
    lines = [
        f"  {stage}: {reason}   ({count} units)" for (stage, reason), count in changes.most_common(MOST_CHANGES_SHOWN)
    ]
    return (
        f"{folder.path}: {len(plan.stale)} units are stale; the recipe or the manifest has changed since:\n"
        + "\n".join(lines)
        + "\nUndo the change, choose another --out, or make these units again: add --replace-stale"
    )


def _index_names_any(folder: RunFolder, units: set[int]) -> bool:
    """True where the index names one of the units, and where it cannot be read."""
    try:
        indexed = pq.read_table(local_name(folder.index), columns=["unit"], filesystem=LOCAL)["unit"]
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException):
        return True
    return bool(pc.any(pc.is_in(indexed, pa.array(sorted(units), indexed.type))).as_py())
