"""A pilot: the whole road for a sample of the clips, to know what the whole manifest will cost before it is begun.

The sample becomes the first units of the run's own folder, so that none of its work is lost: the run goes on with the
clips that are left. Its units are small, because several workers must have something to do and because the spread
between units is what the intervals are made of, and of two sizes, to tell what a unit costs from what a clip costs.
These few short shards are the price.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from pipelines.estimate.costs import StageCost, addresses_of, stage_costs
from pipelines.estimate.prediction import Prediction, expected_stage, write_prediction
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
"""A larger unit holds so many times the clips of a smaller one."""


def run_pilot(
    run: Run, clips: int, engine: Backend, listener: Listener, *, replace_stale: bool = False
) -> tuple[RunResult, Prediction]:
    """Run a sample of `clips` clips and keep what it foretells in the run's folder.

    The same call again goes on where it stopped, or draws more clips; after the whole run has begun it is refused.
    Raises: PipelineError, as `run_pipeline`; and where the run has begun, or names no manifest.
    """
    if run.clips is None:
        raise PipelineError(f"a pilot needs the manifests of the whole run, not its folder {run.folder.path}")
    sample, left_out = draw(run.clips, clips)
    small = max(1, round(len(sample) / (UNITS_OF_EACH_SIZE * (1 + LARGER))))
    cuts = ((UNITS_OF_EACH_SIZE * small, small), (len(sample), LARGER * small))
    chosen = replace(run, sample=tuple(sample), sample_cuts=cuts)
    outcome = run_pipeline(chosen, engine, listener, replace_stale=replace_stale)
    units = Units.read(run.folder)
    costs = stage_costs(run.folder, run.recipe.names, units)
    prediction = replace(
        predict(run.recipe, units, costs), not_sampled=tuple(" / ".join(stratum) for stratum in left_out)
    )
    write_prediction(run.folder, prediction)
    return outcome, prediction


def predict(recipe: Recipe, units: Units, costs: Sequence[StageCost]) -> Prediction:
    """What the finished units say about all clips of the manifest."""
    addresses = addresses_of(units)
    sources = set(addresses.values())
    stages = []
    for cost in costs:
        stage = recipe.step(cost.stage).stage
        paced = slowest_host(stage, sources) if isinstance(stage, RateLimited) else ("", 0.0)
        stages.append(expected_stage(cost, len(addresses), len(sources), recipe.unit_clips, paced))
    return Prediction(
        clips=len(addresses),
        sources=len(sources),
        sample_clips=len(units.last_unit),
        sample_sources=len({addresses[clip_id] for clip_id in units.last_unit}),
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        manifest_ids=ids_digest(addresses),
        stages=stages,
    )
