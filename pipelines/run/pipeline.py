"""A run: units flow through the stages, each with a durable result between them.

A unit goes on as soon as the stage before has committed it (`pipelines.run.scheduler`); so encoding begins while most
units are still to be fetched. The backend decides which process does a unit.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.disk import writing_to
from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.execute import open_stage, run_unit
from pipelines.run.index_writer import write_index
from pipelines.run.job import Run
from pipelines.run.ledger import Tally
from pipelines.run.listener import Listener, LogListener
from pipelines.run.plan import Plan, invalidate, make_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.stage_progress import StageProgress
from pipelines.run.state import read_run_state
from pipelines.run.status import final_tally
from pipelines.run.stopping import RunInterruptedError, draining
from pipelines.run.work_queue import WorkQueue
from pipelines.stage import Context, Work

__all__ = ["Backend", "InlineBackend", "Listener", "LogListener", "RunResult", "run_pipeline"]


class Backend(Protocol):
    """Does tasks of a queue, in any process."""

    def prepare(self, queue: WorkQueue, context: Context, listener: Listener) -> None:
        """Get ready to run: connect to a cluster, for instance. Not called where nothing is left to do."""
        ...

    def run(self, queue: WorkQueue, context: Context, listener: Listener) -> Iterator[Commit]:
        """Do tasks until the queue hands out no more. The caller records each commit before it asks for the next.

        Raises: UniformError after the units in progress have ended.
        """
        ...


class InlineBackend:
    """Does every task in this process, one after another: for debugging, and for a machine without Ray.

    Later stages go first, so that a unit passes all its stages before the next one begins. Stages stay open.
    """

    def prepare(self, queue: WorkQueue, context: Context, listener: Listener) -> None:
        """See Backend."""

    def run(self, queue: WorkQueue, context: Context, listener: Listener) -> Iterator[Commit]:
        """See Backend."""
        opened: dict[str, Work] = {}
        while (task := queue.take()) is not None:
            if task.stage not in opened:
                opened[task.stage] = open_stage(queue.steps[task.stage], context)
            yield run_unit(task, opened[task.stage])


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
    Raises: PipelineError where a stage's code fails, a clip is lost, the disk is full, or another run holds the lock;
        RunInterruptedError after SIGTERM or Ctrl-C.
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
    queue = WorkQueue(run, inputs, state, steps, replace_stale=replace_stale)
    queue.require_no_stale()
    made = _run_queue(run, inputs, plan, queue, backend, listener)
    tallies, final = final_tally(run.folder, queue.state, units)
    last = len(steps) == len(run.recipe.names)
    return RunResult(
        stages=tallies,
        final=final,
        units_made=made,
        units_found=len(units) * len(steps) - made,
        indexed=write_index(run.folder, inputs, queue.state, final) if last else None,
        seconds=time.monotonic() - began,
    )


def _run_queue(run: Run, inputs: RunInputs, plan: Plan, queue: WorkQueue, backend: Backend, listener: Listener) -> int:
    """Do the queue's tasks. Returns the number of commits."""
    progress = StageProgress(run.folder, inputs, plan, queue, listener)
    progress.begin()
    if not queue.scheduler.finished:
        backend.prepare(queue, run.context, listener)
        with draining(queue, listener):
            for commit in backend.run(queue, run.context, listener):
                queue.record(commit)
                progress.committed(commit)
    queue.require_no_stale()
    if queue.stop_signal is not None and not queue.scheduler.finished:
        raise RunInterruptedError(queue.stop_signal, progress.made)
    progress.require_finished()
    return progress.made
