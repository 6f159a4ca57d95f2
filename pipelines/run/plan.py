"""Which units are done, which are stale and why, and which are new: what a run would do, without doing it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pipelines.recipe import Recipe, StageStep
from pipelines.run.commits import Commit, difference, read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import Tally
from pipelines.run.units import ROW_COLUMNS, Units
from uniform.errors import PipelineError
from uniform.fingerprint import canonical_json, digest

Condition = Literal["done", "stale", "new"]
_States = Mapping[str, Mapping[int, "UnitState"] | Sequence["UnitState"]]
"""Stage -> unit -> UnitState."""


@dataclass(frozen=True, kw_only=True)
class UnitState:
    """One unit of one stage, compared with what the recipe asks for now."""

    stage: str
    unit: int
    condition: Condition
    commit: Commit | None = None
    reasons: tuple[str, ...] = ()
    """For a stale unit: what changed, old -> new."""


@dataclass(frozen=True)
class Survey:
    """The state of every unit of every stage that was asked for."""

    states: Mapping[str, tuple[UnitState, ...]]

    def of(self, stage: str, condition: Condition) -> list[UnitState]:
        """The units of a stage that are in a condition."""
        return [state for state in self.states[stage] if state.condition == condition]

    @property
    def stale(self) -> list[UnitState]:
        """Every stale unit, in the order of the stages."""
        return [state for stage in self.states for state in self.of(stage, "stale")]

    @property
    def finished(self) -> bool:
        """True where nothing is left to do."""
        return all(state.condition == "done" for states in self.states.values() for state in states)

    def tally(self, stage: str) -> Tally:
        """What became of the clips of the stage's finished units, clips of superseded units included."""
        return sum_tallies([state.commit.tally for state in self.of(stage, "done") if state.commit])

    def require_fresh(self, folder: RunFolder) -> None:
        """Raises PipelineError that names the differences where a unit is stale."""
        if not self.stale:
            return
        changes = Counter((state.stage, reason) for state in self.stale for reason in state.reasons)
        lines = [f"  {stage}: {reason}   ({count} units)" for (stage, reason), count in changes.most_common(12)]
        raise PipelineError(
            f"{folder.path}: {len(self.stale)} units were made in another way than the recipe asks for now:\n"
            + "\n".join(lines)
            + "\nUndo the change, choose another --out, or make these units again: add --replace-stale"
        )


def sum_tallies(tallies: Sequence[Tally]) -> Tally:
    """One tally of many."""
    codes: Counter[str] = Counter()
    for tally in tallies:
        codes.update(tally.codes)
    return Tally(clips=sum(tally.clips for tally in tallies), codes=dict(sorted(codes.items())))


@dataclass(frozen=True)
class PlanBuilder:
    """Compares commit markers with a recipe. Provenance is asked for once per stage: it may read large weights."""

    folder: RunFolder
    recipe: Recipe
    units: Units
    _provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return {name: value for name, value in self.recipe.spec.as_dict().items() if name != "name"}

    def provenance(self, instance: StageStep) -> Any:
        """What the stage says of itself, as JSON gives it back. Raises PipelineError where it is not JSON."""
        if instance.name not in self._provenance:
            told = instance.stage.provenance(self.recipe.spec)
            try:
                self._provenance[instance.name] = json.loads(canonical_json(told))
            except (TypeError, ValueError) as error:
                raise PipelineError(
                    f"stage '{instance.name}': its provenance is not plain JSON ({error}); "
                    f"give numbers, texts, lists and tables"
                ) from error
        return self._provenance[instance.name]

    def survey(self, instances: Sequence[StageStep]) -> Survey:
        """The state of all units for the given stages, which are the recipe's first ones."""
        states: dict[str, tuple[UnitState, ...]] = {}
        for instance in instances:
            states[instance.name] = tuple(self._state(instance, unit, states) for unit in range(len(self.units)))
        return Survey(states)

    def run_stage(self, instance: StageStep) -> tuple[UnitState, ...]:
        """The state of all units for one stage, where every stage before it has committed them all."""
        return tuple(self._state(instance, unit, self._finished(instance, unit)) for unit in range(len(self.units)))

    def made_of_now(self, instance: StageStep, unit: int) -> dict[str, Any]:
        """`made_of` for a unit that every stage before has committed."""
        return self.made_of(instance, unit, self._finished(instance, unit))

    def _finished(self, instance: StageStep, unit: int) -> dict[str, dict[int, UnitState]]:
        before = self.recipe.before(instance.name)
        needed = {giver.name: giver for giver in self.recipe.producers(instance.name).values()}
        needed.update({before.name: before} if before else {})
        return {
            name: {unit: UnitState(stage=name, unit=unit, condition="done", commit=self.committed(earlier, unit))}
            for name, earlier in needed.items()
        }

    def committed(self, instance: StageStep, unit: int) -> Commit:
        """The commit of a unit. Raises PipelineError where there is none."""
        commit = read_commit(self.folder.commit(instance.name, unit))
        if commit is None:
            raise PipelineError(f"unit {unit} was not committed by stage '{instance.name}'; run that stage first")
        return commit

    def reaching(self, before: StageStep | None, unit: int) -> int:
        """How many clips of a unit reach the stage that stands after `before`."""
        return len(self.units.ids(unit)) if before is None else self.committed(before, unit).tally.kept

    def made_of(self, instance: StageStep, unit: int, states: _States) -> dict[str, Any]:
        """Everything that decides a unit's results. None stands for what only the stages before it will tell.

        clips: digest of the ids that reach the stage, in order.
        rows: digest of each manifest column that the stage reads (its `reads`, or all of them).
        upstream: fingerprints of the stages whose fields it needs.
        """
        before = self.recipe.before(instance.name)
        clips = digest(self.units.ids(unit)) if before is None else _kept(states[before.name][unit])
        producers = {giver.name for giver in self.recipe.producers(instance.name).values()}
        columns = getattr(instance.stage, "reads", ROW_COLUMNS)
        return {
            "stage": instance.name,
            "clips": clips,
            "rows": self.units.row_digests(unit, columns),
            "provenance": self.provenance(instance),
            "spec": self._spec,
            "upstream": {name: _fingerprint(states[name][unit]) for name in sorted(producers)},
        }

    def _state(self, instance: StageStep, unit: int, states: _States) -> UnitState:
        commit = read_commit(self.folder.commit(instance.name, unit))
        if commit is None:
            return UnitState(stage=instance.name, unit=unit, condition="new")
        reasons = difference(commit.made_of, self.made_of(instance, unit, states))
        producers = {giver.name for giver in self.recipe.producers(instance.name).values()}
        reasons += [
            f"upstream.{name}: will be made again"
            for name in sorted(producers)
            if states[name][unit].condition == "stale"
        ]
        condition: Condition = "stale" if reasons else "done"
        return UnitState(stage=instance.name, unit=unit, condition=condition, commit=commit, reasons=tuple(reasons))


def _kept(state: UnitState) -> str | None:
    return state.commit.kept if state.condition == "done" and state.commit else None


def _fingerprint(state: UnitState) -> str | None:
    return state.commit.fingerprint if state.condition == "done" and state.commit else None
