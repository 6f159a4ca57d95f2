"""A run: one stage after the other over all units, with a durable result between them.

A stage starts only when the stage before it has committed every unit, so that fetching may take weeks and encoding
hours, and an accelerator never waits for a web site. The backend decides which process does a unit.
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
from pipelines.run.digest_overlaps import digest_overlap_warnings
from pipelines.run.execute import UnitTask, open_stage, run_unit
from pipelines.run.folder import RunFolder
from pipelines.run.index_writer import write_index
from pipelines.run.job import Run
from pipelines.run.ledger import Tally, sum_tallies
from pipelines.run.plan import Plan, invalidate, make_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.stage_warnings import stage_warnings
from pipelines.run.state import RunState, read_run_state
from pipelines.run.status import final_tally
from pipelines.stage import Context
from uniform.errors import PipelineError

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Does units of one stage, in any order, and returns each unit's commit as it ends."""

    def run_stage(
        self, step: StageStep, tasks: Iterable[UnitTask], context: Context, listener: "Listener"
    ) -> Iterator[Commit]:
        """Do the tasks. Raises UniformError after the units in progress have ended."""
        ...


class Listener(Protocol):
    """Shows the progress of a run."""

    def stage_started(self, stage: str, units: int, clips: int, done: Tally) -> None:
        """`units` are left to do and hold `clips` clips; `done` is what earlier runs finished."""
        ...

    def unit_done(self, commit: Commit) -> None:
        """A unit was committed."""
        ...

    def stage_ended(self, stage: str, tally: Tally, seconds: float) -> None:
        """Every unit of the stage is committed."""
        ...

    def warn(self, text: str) -> None:
        """A warning: a worker died, or a unit is tried clip by clip."""
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

    def warn(self, text: str) -> None:
        """See Listener."""
        logger.warning("%s", text)


class InlineBackend:
    """Does every unit in this process, one after another: for debugging, and for a machine without Ray."""

    def run_stage(
        self, step: StageStep, tasks: Iterable[UnitTask], context: Context, listener: Listener
    ) -> Iterator[Commit]:
        """See Backend."""
        work = None
        for task in tasks:
            work = work or open_stage(step, context)
            yield run_unit(task, work)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did."""

    stages: Mapping[str, Tally]
    """Per stage: the clips that reached it by code, superseded units left out."""
    final: Tally
    """The planned clips by their final code."""
    units_made: int
    units_found: int
    """Units that an earlier run had finished."""
    indexed: int | None
    """Clips in the index; None where the run stopped before its last stage, or makes no latents."""
    seconds: float


def run_pipeline(
    run: Run, backend: Backend, listener: Listener, *, until: str | None = None, replace_stale: bool = False
) -> RunResult:
    """Do what is left to do, and write the index after the last stage.

    Args:
        until: name of the last stage to run; None runs them all.
        replace_stale: make stale units again; otherwise a stale unit stops the run.
    Raises: PipelineError where a stage's code fails, a clip is lost, the disk is full, or another run holds the lock.
    """
    began = time.monotonic()
    steps = run.recipe.until(until)
    with run.folder.locked(), writing_to(run.folder.path):
        run.folder.sweep()
        try:
            return _run_locked(run, steps, backend, listener, replace_stale, began)
        finally:
            run.folder.sweep()  # temporary files of workers that died


def _run_locked(
    run: Run, steps: Sequence[StageStep], backend: Backend, listener: Listener, replace_stale: bool, began: float
) -> RunResult:
    units = run.units()
    inputs = RunInputs(run.recipe, units)
    state = read_run_state(run.folder, [step.name for step in steps], len(units))
    plan = make_plan(state, inputs, steps)
    state = invalidate(run.folder, plan, state, replace_stale=replace_stale)
    run.write(units)
    made = 0
    for step in steps:
        plan = make_plan(state, inputs, [step])
        state = invalidate(run.folder, plan, state, replace_stale=replace_stale)
        commits = _run_stage(run, inputs, state, plan, step, backend, listener)
        state = state.with_commits(commits)
        made += len(commits)
    tallies, final = final_tally(run.folder, state, units)
    last = len(steps) == len(run.recipe.names)
    return RunResult(
        stages=tallies,
        final=final,
        units_made=made,
        units_found=len(units) * len(steps) - made,
        indexed=write_index(run.folder, inputs, state, final) if last else None,
        seconds=time.monotonic() - began,
    )


def _run_stage(
    run: Run, inputs: RunInputs, state: RunState, plan: Plan, step: StageStep, backend: Backend, listener: Listener
) -> list[Commit]:
    """One stage over the units that are not done. Returns their commits."""
    began = time.monotonic()
    pending = [one.unit for one in plan.stages[step.name] if one.condition != "done"]
    clips = sum(inputs.reaching(step, unit, state) for unit in pending)
    listener.stage_started(step.name, len(pending), clips, plan.tally(step.name))
    commits: list[Commit] = []
    for commit in backend.run_stage(step, _tasks(run, inputs, state, step, pending), run.context, listener):
        commits.append(commit)
        listener.unit_done(commit)
    missing = set(pending) - {commit.unit for commit in commits}
    if missing:
        raise PipelineError(f"stage '{step.name}': units {sorted(missing)} were not made; this is a bug")
    tally = _checked_tally(run.folder, inputs, state.with_commits(commits), step)
    listener.stage_ended(step.name, tally, time.monotonic() - began)
    repeated = digest_overlap_warnings(run.folder, step, inputs.units) if commits else []
    for text in (*stage_warnings(run.folder, step.name, commits), *repeated):
        listener.warn(text)
    return commits


def _tasks(run: Run, inputs: RunInputs, state: RunState, step: StageStep, pending: Sequence[int]) -> Iterator[UnitTask]:
    """One task at a time: a unit's rows are in memory only while the unit is in progress."""
    previous = run.recipe.previous(step.name)
    sources = {one.name for one in (*run.recipe.ancestors(step.name), *([previous] if previous else []))}
    for unit in pending:
        yield UnitTask(
            folder=run.folder.path.absolute(),
            recipe=run.recipe,
            stage=step.name,
            unit=unit,
            rows=inputs.units.rows(unit),
            inputs=inputs.of_unit(step, unit, state),
            ledgers={name: state.committed(name, unit).ledger for name in sorted(sources)},
        )


def _checked_tally(folder: RunFolder, inputs: RunInputs, state: RunState, step: StageStep) -> Tally:
    """Clips in = kept + rejected + failed, by commits and ledgers. Raises PipelineError where a clip is lost."""
    tallies = []
    for unit in range(len(inputs.units)):
        commit = state.committed(step.name, unit)
        where = f"stage '{step.name}', unit {unit}"
        commit.tally.require_complete(where)
        rows = pq.read_metadata(folder.inside(commit.ledger)).num_rows
        reached = inputs.reaching(step, unit, state)
        if not rows == commit.clips == reached:
            raise PipelineError(
                f"{where}: {reached} clips reached it, its commit marker has {commit.clips}, its ledger {rows}. "
                f"Remove {folder.commit(step.name, unit)} and run again."
            )
        tallies.append(commit.tally)
    return sum_tallies(tallies)
