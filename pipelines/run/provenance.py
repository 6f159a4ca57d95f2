"""The inputs that determine a unit's results, for the recipe and the manifest of now."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.recipe import Recipe, StageStep
from pipelines.run.state import RunState
from pipelines.run.units import ROW_COLUMNS, Units
from uniform.errors import PipelineError
from uniform.fingerprint import canonical_json, digest


@dataclass(frozen=True)
class RunInputs:
    """Computes the inputs of units. Each stage's provenance is computed once: it may read large weights."""

    recipe: Recipe
    units: Units
    _provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return {name: value for name, value in self.recipe.spec.as_dict().items() if name != "name"}

    def provenance(self, step: StageStep) -> Any:
        """The stage's own provenance, as JSON gives it back. Raises PipelineError where it is not JSON."""
        if step.name not in self._provenance:
            values = step.stage.provenance(self.recipe.spec)
            try:
                self._provenance[step.name] = json.loads(canonical_json(values))
            except (TypeError, ValueError) as error:
                raise PipelineError(
                    f"stage '{step.name}': its provenance is not plain JSON ({error}); "
                    f"give numbers, texts, lists and tables"
                ) from error
        return self._provenance[step.name]

    def of_unit(self, step: StageStep, unit: int, state: RunState) -> dict[str, Any]:
        """Everything that determines a unit's results. None stands for what the stages before have not made yet.

        clips: digest of the ids that reach the stage, in order.
        rows: digest of each manifest column that the stage reads (its `reads`, or all of them).
        upstream: fingerprints of the stages whose fields it needs.
        """
        previous = self.recipe.previous(step.name)
        upstream = {}
        for name in self.producers(step):
            commit = state.commits[name][unit]
            upstream[name] = commit.fingerprint if commit else None
        if previous is None:
            clips: str | None = digest(self.units.ids(unit))
        else:
            before = state.commits[previous.name][unit]
            clips = before.kept if before else None
        return {
            "stage": step.name,
            "clips": clips,
            "rows": self.units.row_digests(unit, getattr(step.stage, "reads", ROW_COLUMNS)),
            "provenance": self.provenance(step),
            "spec": self._spec,
            "upstream": upstream,
        }

    def producers(self, step: StageStep) -> list[str]:
        """Names of the stages whose fields a stage needs, sorted."""
        return sorted({producer.name for producer in self.recipe.producers(step.name).values()})

    def reaching(self, step: StageStep, unit: int, state: RunState) -> int:
        """How many clips of a unit reach a stage. Raises PipelineError where the stage before has not committed it."""
        previous = self.recipe.previous(step.name)
        return len(self.units.ids(unit)) if previous is None else state.committed(previous.name, unit).tally.kept
