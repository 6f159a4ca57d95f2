"""Run a pilot: all stages over a sample of the clips, to predict the cost of the whole manifest.

The sample becomes the first units of the run directory, so its results are kept: the run continues with the other
clips. The units are small, so that several workers get one and the intervals have enough units to rest on; they have
two sizes, so that the fixed cost of a unit and the cost per clip can be separated. The price is a few short shards.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from pipelines.estimate.costs import StageCost, addresses_of, stage_costs
from pipelines.estimate.prediction import Prediction, predict_stage, write_prediction
from pipelines.estimate.rate_limited_time import RateLimited, slowest_host
from pipelines.estimate.sample import draw
from pipelines.recipe import Recipe
from pipelines.run.job import Run
from pipelines.run.pipeline import Backend, Listener, RunResult, run_pipeline
from pipelines.run.units import Units
from uniform.errors import PipelineError
from uniform.latents.format import ids_digest

UNITS_OF_EACH_SIZE = 4
LARGER = 4
"""Size of a larger unit over the size of a smaller one."""


def run_pilot(
    run: Run, clips: int, engine: Backend, listener: Listener, *, replace_stale: bool = False
) -> tuple[RunResult, Prediction]:
    """Run a sample of `clips` clips and write the prediction into the run directory.

    The same call again resumes, or draws more clips; it is refused once the whole run has begun.
    Returns: the result of the sample, and the prediction.
    Raises: PipelineError, as `run_pipeline`; and where the run has begun, or names no manifest.
    """
    if run.clips is None:
        raise PipelineError(f"a pilot needs the manifests of the run, not the run directory {run.folder.path}")
    sample, left_out = draw(run.clips, clips)
    small = max(1, round(len(sample) / (UNITS_OF_EACH_SIZE * (1 + LARGER))))
    cuts = ((UNITS_OF_EACH_SIZE * small, small), (len(sample), LARGER * small))
    chosen = replace(run, sample=tuple(sample), sample_cuts=cuts)
    result = run_pipeline(chosen, engine, listener, replace_stale=replace_stale)
    units = Units.read(run.folder)
    costs = stage_costs(run.folder, run.recipe.names, units)
    prediction = replace(
        predict(run.recipe, units, costs), not_sampled=tuple(" / ".join(stratum) for stratum in left_out)
    )
    write_prediction(run.folder, prediction)
    return result, prediction


def predict(recipe: Recipe, units: Units, costs: Sequence[StageCost]) -> Prediction:
    """Predict all clips of the manifest from the finished units."""
    addresses = addresses_of(units)
    sources = set(addresses.values())
    stages = []
    for cost in costs:
        stage = recipe.step(cost.stage).stage
        slowest = slowest_host(stage, sources) if isinstance(stage, RateLimited) else ("", 0.0)
        stages.append(predict_stage(cost, len(addresses), len(sources), recipe.unit_clips, slowest))
    return Prediction(
        clips=len(addresses),
        sources=len(sources),
        sample_clips=len(units.last_unit),
        sample_sources=len({addresses[clip_id] for clip_id in units.last_unit}),
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        manifest_ids=ids_digest(addresses),
        stages=stages,
    )
