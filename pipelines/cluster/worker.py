"""The actor that does units: one process, with the stages that it has opened."""

from typing import Any

import ray

from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.execute import UnitTask, open_stage, probe_clip, run_unit
from pipelines.stage import Context, Work
from uniform.errors import UniformError


class Worker:
    """Opens each stage once and keeps it open for all units."""

    def __init__(self) -> None:
        self._opened: list[tuple[StageStep, Context, Work]] = []

    def hello(self) -> str:
        """Report ready. Returns the id of the node."""
        found: str = ray.get_runtime_context().get_node_id()
        return found

    def do(self, task: UnitTask, context: Context, only: str | None) -> Commit | UniformError | None:
        """Do a unit, or try one clip of it alone. An error that the user can fix is returned, not raised."""
        try:
            work = self._open(task.recipe.step(task.stage), context)
            if only is not None:
                probe_clip(task, work, only)
                return None
            return run_unit(task, work)
        except UniformError as error:
            return error

    def _open(self, step: StageStep, context: Context) -> Work:
        for known, there, work in self._opened:
            if known == step and there == context:
                return work
        # Another run, or other options under the same name: the old stage is freed before the new one takes memory.
        self._opened = [one for one in self._opened if one[0].name != step.name and one[1] == context]
        work = open_stage(step, context)
        self._opened.append((step, context, work))
        return work


WorkerActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
