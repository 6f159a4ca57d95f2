"""The prediction of a pilot beside the actual figures of the run, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.estimate.costs import StageCost, stage_costs
from pipelines.estimate.prediction import Prediction, StagePrediction, read_prediction
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units
from uniform.latents.format import ids_digest


@dataclass(frozen=True, kw_only=True)
class StageComparison:
    """Predicted and actual figures of one stage."""

    predicted: StagePrediction
    actual: StageCost
    done: bool
    """Whether every unit is committed; before that the actual figures are those so far."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A prediction and the actual figures."""

    prediction: Prediction
    stages: Sequence[StageComparison]
    same_manifest: bool
    """Whether the run's manifest still holds the clips that the prediction is about."""

    @property
    def done(self) -> bool:
        """Whether every stage has committed every clip of the manifest."""
        return all(stage.done for stage in self.stages)


def compare_with_prediction(folder: RunFolder, stages: Sequence[str], units: Units) -> Comparison | None:
    """The prediction of this run's pilot beside the actual figures; None where there was no pilot.

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
            StageComparison(
                predicted=predicted,
                actual=costs[predicted.stage],
                done=whole and len(costs[predicted.stage].units) == len(units),
            )
            for predicted in prediction.stages
            if predicted.stage in costs
        ],
        same_manifest=ids_digest(units.clips["clip_id"].to_pylist()) == prediction.manifest_ids,
    )
