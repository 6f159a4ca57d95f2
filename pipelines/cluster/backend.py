"""The Ray backend: units on this machine or on a cluster, one unit per worker at a time.

Tasks carry ids and paths, results are commits; frames and latents never go through the object store. A worker that
dies is replaced and its unit is done again; see `pipelines.cluster.suspects` for when a clip is blamed.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray

from pipelines.cluster.dispatch import Dispatcher
from pipelines.cluster.host_states import ClusterHostStates, release_host_states_actor
from pipelines.cluster.nodes import NodeChecks
from pipelines.cluster.placement import ResourceClass, resource_classes
from pipelines.cluster.pool import WorkerPool
from pipelines.cluster.session import cluster_totals, join_ray
from pipelines.run.commits import Commit
from pipelines.run.listener import Listener
from pipelines.run.work_queue import WorkQueue
from pipelines.stage import Context
from uniform.errors import PipelineError


class RayBackend:
    """Does units in Ray actors, on this machine or on a cluster. A context manager: it ends Ray where it started it.

    Args:
        workers: workers of each resource class at most; None takes one for each core of this machine, and on a cluster
            as many as it has room for.
        address: of a running cluster; None starts Ray on this machine, when the first unit needs it.
    """

    def __init__(self, *, workers: int | None = None, address: str | None = None) -> None:
        if workers is not None and workers < 1:
            raise PipelineError(f"--workers is {workers}; it must be 1 or more")
        self._address = address
        self._started = False
        self._lost = False
        most = workers if address is not None else workers or os.cpu_count() or 1
        self._cores = workers or 1
        self._pool = WorkerPool(most)

    def __enter__(self) -> "RayBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if ray.is_initialized() and not self._lost:
            self._pool.dismiss(list(self._pool.slots))
            release_host_states_actor()
        if self._started and not self._lost:
            ray.shutdown()

    def prepare(self, queue: WorkQueue, context: Context, listener: Listener) -> None:
        """See `pipelines.run.pipeline.Backend`."""
        fix = "Check --address, or work without Ray: add --inline"
        self._started |= join_ray(self._address, cores=self._cores, fix=fix)

    def run(self, queue: WorkQueue, context: Context, listener: Listener) -> Iterator[Commit]:
        """See `pipelines.run.pipeline.Backend`."""
        classes = self._classes(queue)
        self._pool.keep_only(classes)
        shared = ray.put(replace(context, host_states=ClusterHostStates))
        checked = NodeChecks(context.folder) if self._address is not None else contextlib.nullcontext()
        with checked as checks:
            dispatcher = Dispatcher(self._pool, classes, queue, shared, listener, checks)
            try:
                yield from dispatcher.run()
            finally:
                self._lost = dispatcher.head_is_lost
                if not self._lost:
                    self._pool.dismiss([slot for slot in self._pool.slots if slot.job or slot.pending])

    def _classes(self, queue: WorkQueue) -> tuple[ResourceClass, ...]:
        """Raises: PipelineError where this machine is too small; on a cluster a node may still come."""
        have = cluster_totals()
        steps = list(queue.steps.values())
        classes = resource_classes(steps, accelerators=have["num_gpus"] > 0, with_memory=self._address is not None)
        found: dict[str, Any] = {"CPU": have["num_cpus"], "GPU": have["num_gpus"], "memory": have["memory"]}
        for kind in classes:
            if self._address is None and not kind.fits(found):
                raise PipelineError(
                    f"stage '{kind.stages[0]}' needs {kind} for one worker, but Ray has {have['num_cpus']:g} cores, "
                    f"{have['num_gpus']:g} accelerators. Change the stage's device, name a larger cluster by "
                    f"--address, or add --inline"
                )
        return classes
