"""Follows the stages of a run: begin, commits, end with its accounts. It reports them to the listener."""

import time

import pyarrow.parquet as pq

from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.digest_overlaps import digest_overlap_warnings
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import Tally, sum_tallies
from pipelines.run.listener import Listener
from pipelines.run.plan import Plan
from pipelines.run.provenance import RunInputs
from pipelines.run.stage_warnings import stage_warnings
from pipelines.run.state import RunState
from pipelines.run.work_queue import WorkQueue
from uniform.errors import PipelineError
from uniform.tables import LOCAL, local_name


class StageProgress:
    """The commits of a run, by stage.

    Args:
        folder: of the run.
        inputs: of its units.
        plan: of all stages, before the run.
        queue: the work; its state is up to date when `committed` is called.
        listener: hears of it.
    """

    def __init__(self, folder: RunFolder, inputs: RunInputs, plan: Plan, queue: WorkQueue, listener: Listener) -> None:
        self._folder, self._inputs, self._plan = folder, inputs, plan
        self._queue, self._listener = queue, listener
        self._commits: dict[str, list[Commit]] = {stage: [] for stage in queue.steps}
        self._began = time.monotonic()
        self._left = list(queue.steps)
        """Stages that have not ended, in order."""

    @property
    def made(self) -> int:
        """Commits of this run."""
        return sum(len(commits) for commits in self._commits.values())

    def begin(self) -> None:
        """Show every stage, and end those that have nothing to do."""
        for stage in self._queue.steps:
            pending = [one.unit for one in self._plan.stages[stage] if one.condition != "done"]
            clips = sum(self._most_clips(stage, unit) for unit in pending)
            self._listener.stage_started(stage, len(pending), clips, self._plan.tally(stage))
        self._end_stages()

    def committed(self, commit: Commit) -> None:
        """A unit was committed."""
        self._commits[commit.stage].append(commit)
        self._listener.unit_done(commit)
        self._end_stages()

    def require_finished(self) -> None:
        """Raises PipelineError where a stage has not committed every unit."""
        if self._left:
            raise PipelineError(f"stage '{self._left[0]}': some units were not made; this is a bug")

    def _most_clips(self, stage: str, unit: int) -> int:
        """Clips that reach a stage; all those of the unit where a stage before is not done yet."""
        names = list(self._queue.steps)
        before = self._queue.state.commits[names[names.index(stage) - 1]][unit] if stage != names[0] else None
        return before.tally.kept if before is not None else len(self._inputs.units.ids(unit))

    def _end_stages(self) -> None:
        """End stages in their order: the accounts of a stage need those before it."""
        while self._left and self._queue.scheduler.passed(self._left[0]):
            stage = self._left.pop(0)
            tally = _checked_tally(self._folder, self._inputs, self._queue.state, self._queue.steps[stage])
            self._listener.stage_ended(stage, tally, time.monotonic() - self._began)
            commits, step = self._commits[stage], self._queue.steps[stage]
            repeated = digest_overlap_warnings(self._folder, step, self._inputs.units) if commits else []
            for text in (*stage_warnings(self._folder, stage, commits), *repeated):
                self._listener.warn(text)


def _checked_tally(folder: RunFolder, inputs: RunInputs, state: RunState, step: StageStep) -> Tally:
    """Clips in = kept + rejected + failed, by commits and ledgers. Raises PipelineError where a clip is lost."""
    tallies = []
    for unit in range(len(inputs.units)):
        commit = state.committed(step.name, unit)
        where = f"stage '{step.name}', unit {unit}"
        commit.tally.require_complete(where)
        rows = pq.read_metadata(local_name(folder.inside(commit.ledger)), filesystem=LOCAL).num_rows
        reached = inputs.reaching(step, unit, state)
        if not rows == commit.clips == reached:
            raise PipelineError(
                f"{where}: {reached} clips reached it, its commit marker has {commit.clips}, its ledger {rows}. "
                f"Remove {folder.commit(step.name, unit)} and run again."
            )
        tallies.append(commit.tally)
    return sum_tallies(tallies)
