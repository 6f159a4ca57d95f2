"""A run: stage after stage, each over all units, with a durable result between them.

A stage starts only when the one before it has committed every unit, so that fetching may take weeks and encoding
hours, and a graphics card never waits for a web site. Which process does a unit is the engine's business.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow.parquet as pq

from pipelines.disk import writing_to
from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.execute import UnitTask, open_stage, run_unit
from pipelines.run.folder import RunFolder
from pipelines.run.index_writer import close_index, indexed_units
from pipelines.run.job import Run
from pipelines.run.ledger import Tally
from pipelines.run.plan import PlanBuilder, Survey, UnitState, sum_tallies
from pipelines.run.stage_warnings import remarks
from pipelines.run.status import final_tally
from pipelines.run.units import Units
from pipelines.stage import Context
from uniform.errors import PipelineError

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Does units of one stage, in whatever order, and gives back each one's commit as it ends."""

    def run_stage(
        self, instance: StageStep, tasks: Iterable[UnitTask], context: Context, listener: "Listener"
    ) -> Iterator[Commit]:
        """Do the tasks. Raises UniformError after the units that were under way have ended."""
        ...


class Listener(Protocol):
    """Whoever shows how the run goes on."""

    def stage_started(self, stage: str, units: int, clips: int, done: Tally) -> None:
        """`units` are left to do and hold `clips` clips; `done` is what earlier runs finished."""
        ...

    def unit_done(self, commit: Commit) -> None:
        """A unit was committed."""
        ...

    def stage_ended(self, stage: str, tally: Tally, seconds: float) -> None:
        """Every unit of the stage is committed."""
        ...

    def warning(self, text: str) -> None:
        """Something worth a line: a worker died, a unit is looked at clip by clip."""
        ...


class LogListener:
    """Plain log lines."""

    def stage_started(self, stage: str, units: int, clips: int, done: Tally) -> None:
        """See Listener."""
        logger.info("%s: %d units to do (%d clips), %d clips done before", stage, units, clips, done.clips)

    def unit_done(self, commit: Commit) -> None:
        """See Listener."""
        logger.info("%s: unit %d, %s, %.1f s", commit.stage, commit.unit, commit.tally, commit.seconds)

    def stage_ended(self, stage: str, tally: Tally, seconds: float) -> None:
        """See Listener."""
        logger.info("%s: %s, %.1f s", stage, tally, seconds)

    def warning(self, text: str) -> None:
        """See Listener."""
        logger.warning("%s", text)


class InlineBackend:
    """Does every unit in this process, one after another: for debugging, and for a machine without Ray."""

    def run_stage(
        self, instance: StageStep, tasks: Iterable[UnitTask], context: Context, listener: Listener
    ) -> Iterator[Commit]:
        """See Backend."""
        work = None
        for task in tasks:
            work = work or open_stage(instance, context)
            yield run_unit(task, work)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did."""

    stages: Mapping[str, Tally]
    """Per stage: what became of the clips that reached it, superseded units left out."""
    final: Tally
    """What became of the planned clips."""
    units_made: int
    units_found: int
    """Units that an earlier run had finished."""
    indexed: int | None
    """Clips in the index; None where the run stopped before its last stage, or makes no latents."""
    seconds: float


def run_pipeline(
    run: Run, engine: Backend, listener: Listener, *, until: str | None = None, replace_stale: bool = False
) -> Outcome:
    """Do what is left to do, and close the index after the last stage.

    Args:
        until: name of the last stage to run; None runs them all.
        replace_stale: make units again that were made in another way; otherwise such a unit stops the run.
    Raises: PipelineError where a stage's code fails, a clip is lost, the disk is full, or another run holds the folder.
    """
    began = time.monotonic()
    instances = run.recipe.until(until)
    with run.folder.locked(), writing_to(run.folder.path):
        run.folder.sweep()
        try:
            return _run_locked(run, instances, engine, listener, replace_stale, began)
        finally:
            run.folder.sweep()  # workers that died left theirs behind


def _run_locked(
    run: Run, instances: Sequence[StageStep], engine: Backend, listener: Listener, replace_stale: bool, began: float
) -> Outcome:
    units = run.units()
    plan_builder = PlanBuilder(run.folder, run.recipe, units)
    survey = plan_builder.survey(instances)
    if not replace_stale:
        survey.require_fresh(run.folder)
    _withdraw(run.folder, survey)
    run.write(units)
    made = 0
    for instance in instances:
        states = plan_builder.run_stage(instance)
        stale = Survey({instance.name: states})
        if not replace_stale:
            stale.require_fresh(run.folder)
        _withdraw(run.folder, stale)
        made += _run_stage(run, units, plan_builder, instance, states, engine, listener)
    tallies, final = final_tally(run.folder, [instance.name for instance in instances], units)
    whole = len(instances) == len(run.recipe.names)
    return Outcome(
        stages=tallies,
        final=final,
        units_made=made,
        units_found=len(units) * len(instances) - made,
        indexed=close_index(run.folder, run.recipe, units, plan_builder, final) if whole else None,
        seconds=time.monotonic() - began,
    )


def _withdraw(folder: RunFolder, survey: Survey) -> None:
    """Take back what is about to be made again: the index first, then the markers, the last stage's before the first's.

    A shard whose bytes may change must not be named by an index, and a stage must not look finished after a kill
    while the one it was made from is not.
    """
    pending = {state.unit for states in survey.states.values() for state in states if state.condition != "done"}
    if pending & indexed_units(folder):
        folder.index.unlink(missing_ok=True)
        folder.card.unlink(missing_ok=True)
    for stage in reversed(list(survey.states)):
        for state in survey.of(stage, "stale"):
            folder.commit(stage, state.unit).unlink(missing_ok=True)


def _run_stage(
    run: Run,
    units: Units,
    plan_builder: PlanBuilder,
    instance: StageStep,
    states: Sequence[UnitState],
    engine: Backend,
    listener: Listener,
) -> int:
    """One stage over the units that are not done. Returns their number."""
    began = time.monotonic()
    pending = [state.unit for state in states if state.condition != "done"]
    before = run.recipe.before(instance.name)
    clips = sum(plan_builder.reaching(before, unit) for unit in pending)
    done = sum_tallies([state.commit.tally for state in states if state.condition == "done" and state.commit])
    listener.stage_started(instance.name, len(pending), clips, done)
    commits: list[Commit] = []
    for commit in engine.run_stage(
        instance, _tasks(run, units, plan_builder, instance, pending), run.context, listener
    ):
        commits.append(commit)
        listener.unit_done(commit)
    made = {commit.unit for commit in commits}
    if made != set(pending):
        raise PipelineError(
            f"stage '{instance.name}': units {sorted(set(pending) - made)} were not made; this is a bug"
        )
    tally = _account(run, units, plan_builder, instance)
    listener.stage_ended(instance.name, tally, time.monotonic() - began)
    for text in remarks(run.folder, instance.name, commits):
        listener.warning(text)
    return len(pending)


def _tasks(
    run: Run, units: Units, plan_builder: PlanBuilder, instance: StageStep, pending: Sequence[int]
) -> Iterator[UnitTask]:
    """Made one at a time: a unit's rows are in memory only while it is being done."""
    for unit in pending:
        yield UnitTask(
            folder=run.folder.path.absolute(),
            recipe=run.recipe,
            stage=instance.name,
            unit=unit,
            rows=units.rows(unit),
            made_of=plan_builder.made_of_now(instance, unit),
        )


def _account(run: Run, units: Units, plan_builder: PlanBuilder, instance: StageStep) -> Tally:
    """In = kept + rejected + failed, by what is on the disk. Raises PipelineError where a clip is lost."""
    before = run.recipe.before(instance.name)
    tallies = []
    for unit in range(len(units)):
        commit = plan_builder.committed(instance, unit)
        where = f"stage '{instance.name}', unit {unit}"
        commit.tally.require_complete(where)
        rows = pq.read_metadata(run.folder.inside(commit.ledger)).num_rows
        reached = plan_builder.reaching(before, unit)
        if not rows == commit.clips == reached:
            raise PipelineError(
                f"{where}: {reached} clips reached it, its marker says {commit.clips}, its ledger {rows}. "
                f"Remove {run.folder.commit(instance.name, unit)} and run again."
            )
        tallies.append(commit.tally)
    return sum_tallies(tallies)
