"""What a pilot foretold beside what came of it, stage by stage: for the report, and for the end of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.estimate.costs import StageCost, stage_costs
from pipelines.estimate.prediction import Expected, Prediction, StageExpected, read_prediction
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units
from uniform.latents.format import ids_digest


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    """One stage: foretold and come true."""

    expected: StageExpected
    cost: StageCost
    done: bool
    """Whether every unit is committed; before that the outcome is only what there is so far."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A prediction and its outcome."""

    prediction: Prediction
    stages: Sequence[StageOutcome]
    same_manifest: bool
    """Whether the run's manifest still names the clips that the prediction is about."""

    @property
    def done(self) -> bool:
        """Whether the whole manifest has gone the whole road."""
        return all(stage.done for stage in self.stages)


def compare_with_prediction(folder: RunFolder, stages: Sequence[str], units: Units) -> Comparison | None:
    """The prediction of this folder's pilot beside what the run has come to; None where there was no pilot.

    Raises: PipelineError where a file of the run is damaged.
    """
    prediction = read_prediction(folder)
    if prediction is None:
        return None
    costs = {cost.stage: cost for cost in stage_costs(folder, stages, units)}
    whole = len(units.last_unit) == units.clips.num_rows
    return Comparison(
        prediction=prediction,
        stages=[
            StageOutcome(
                expected=expected,
                cost=costs[expected.stage],
                done=whole and len(costs[expected.stage].units) == len(units),
            )
            for expected in prediction.stages
            if expected.stage in costs
        ],
        same_manifest=ids_digest(units.clips["clip_id"].to_pylist()) == prediction.manifest_ids,
    )


def within(expected: Expected, found: float) -> bool | None:
    """Whether `found` lies in the interval; None where there is none."""
    if expected.low is None or expected.high is None:
        return None
    return expected.low <= found <= expected.high
