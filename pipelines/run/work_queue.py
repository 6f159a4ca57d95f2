"""The work of a run as a queue of unit tasks: what a backend takes from, and commits are recorded in.

It joins the scheduler with the run's state: a unit is compared with the recipe and the manifest of now when every
stage before has committed it, since only then its inputs are known.
"""

import signal
from collections.abc import Collection, Sequence

from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.execute import UnitTask
from pipelines.run.job import Run
from pipelines.run.plan import Plan, UnitPlan, invalidate, unit_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.scheduler import Scheduler, StageRule
from pipelines.run.state import RunState
from pipelines.schedule import Schedule
from pipelines.stage import scope_of


class WorkQueue:
    """Tasks in the scheduler's order, of one run.

    Args:
        run: the run, whose directory is locked.
        inputs: of the run's units.
        state: what is committed; commits of stale units are removed already.
        steps: the stages to do, in order.
        replace_stale: make units again that turn out stale; otherwise they end the run.
    """

    def __init__(
        self, run: Run, inputs: RunInputs, state: RunState, steps: Sequence[StageStep], *, replace_stale: bool
    ) -> None:
        self.steps = {step.name: step for step in steps}
        self.stop_signal: signal.Signals | None = None
        self._run, self._inputs, self._replace_stale = run, inputs, replace_stale
        self._commits = {stage: list(commits) for stage, commits in state.commits.items()}
        self.state = RunState(self._commits)
        """The state of now: it follows `record`."""
        self._stale: list[UnitPlan] = []
        limits = self.schedule.max_workers
        rules = [
            StageRule(name=step.name, scope=scope_of(step.stage), max_workers=limits.get(step.name)) for step in steps
        ]
        self.scheduler = Scheduler(rules, len(inputs.units), self.schedule, self._needs_work)
        self._sources = {step.name: self._ledgers_needed(step) for step in steps}
        self.scheduler.start(self._begun())

    @property
    def schedule(self) -> Schedule:
        """The limits of the recipe."""
        return self._run.recipe.schedule

    @property
    def open(self) -> bool:
        """Whether more tasks may come."""
        return self.stop_signal is None and not self._stale and not self.scheduler.finished

    def stop(self, number: signal.Signals) -> None:
        """Hand out no more tasks."""
        self.stop_signal = number

    def ready(self) -> dict[str, int]:
        """Stage -> tasks that may start now; stages without any are left out."""
        return {stage: count for stage, count in self.scheduler.ready().items() if count} if self.open else {}

    def take(self, stages: Collection[str] | None = None) -> UnitTask | None:
        """The next task of some stages, or of all. A unit's rows are in memory only while it is in progress."""
        job = self.scheduler.take(stages) if self.open else None
        if job is None:
            return None
        stage, unit = job
        return UnitTask(
            folder=self._run.folder.path.absolute(),
            recipe=self._run.recipe,
            stage=stage,
            unit=unit,
            rows=self._inputs.units.rows(unit),
            inputs=self._inputs.of_unit(self.steps[stage], unit, self.state),
            ledgers={name: self.state.committed(name, unit).ledger for name in self._sources[stage]},
        )

    def put_back(self, task: UnitTask) -> None:
        """A task ended without a commit; it will be handed out again."""
        self.scheduler.put_back(task.stage, task.unit)

    def record(self, commit: Commit) -> None:
        """A task is committed."""
        self._commits[commit.stage][commit.unit] = commit
        self.scheduler.commit(commit.stage, commit.unit, commit.bytes)

    def require_no_stale(self) -> None:
        """Raises PipelineError that names the differences where units turned out stale."""
        if self._stale:
            found = Plan({one.stage: tuple(o for o in self._stale if o.stage == one.stage) for one in self._stale})
            invalidate(self._run.folder, found, self.state, replace_stale=False)

    def _needs_work(self, stage: str, unit: int) -> bool:
        found = unit_plan(self.steps[stage], unit, self.state, {}, self._inputs)
        if found.condition == "stale" and self._replace_stale:
            invalidate(self._run.folder, Plan({stage: (found,)}), self.state, replace_stale=True)
            self._commits[stage][unit] = None
        elif found.condition == "stale":
            self._stale.append(found)
        return found.condition != "done"

    def _begun(self) -> dict[int, int]:
        """Units that earlier runs began and did not finish: the bytes that are committed of them."""
        found: dict[int, int] = {}
        for unit in range(len(self._inputs.units)):
            commits = [self._commits[stage][unit] for stage in self.steps]
            made = [commit for commit in commits if commit is not None]
            if made and len(made) < len(commits):
                found[unit] = sum(commit.bytes for commit in made)
        return found

    def _ledgers_needed(self, step: StageStep) -> list[str]:
        recipe = self._run.recipe
        previous = recipe.previous(step.name)
        return sorted({one.name for one in (*recipe.ancestors(step.name), *([previous] if previous else []))})
