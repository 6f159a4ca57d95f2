"""The Ray backend: units on this machine or on a cluster, one unit per actor at a time.

Tasks carry ids and paths, results are commits; frames and latents never go through the object store. A worker that
dies is replaced and its unit is done again. Where three workers die on a unit, its clips are tried one by one, until
the clip that kills the worker is found; that clip is dropped as `worker_crash` and the other clips are kept.
"""

import contextlib
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipelines.cluster.session import cluster_totals, join_ray
from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import HostStatesServer
from pipelines.hosts import HostPolicy
from pipelines.recipe import StageStep
from pipelines.run.commits import Commit
from pipelines.run.execute import UnitTask, open_stage, probe_clip, run_unit
from pipelines.run.pipeline import Listener
from pipelines.stage import Context, Resources, Work
from uniform.errors import PipelineError, UniformError

MAX_DEATHS = 3
"""Workers that may die on a unit before its clips are tried one by one, and again after that before the run ends."""
HOST_STATES_ACTOR = "uniform-hosts"
"""Name and namespace of the actor that holds the states of hosts, one for the whole cluster."""
HOST_STATES_TIMEOUT_S = (0.1, 0.5, 2.0, 5.0)


class _Worker:
    """One process. It opens a stage once and keeps it open for all units of the stage."""

    def __init__(self) -> None:
        self._open: tuple[StageStep, Work] | None = None

    def do(self, task: UnitTask, context: Context, only: str | None) -> Commit | UniformError | None:
        """Do a unit, or try one clip of it alone. An error that the user can fix is returned, not raised."""
        try:
            step = task.recipe.step(task.stage)
            if self._open is None or self._open[0] != step:
                self._open = None  # free the old stage before the new one takes its memory
                self._open = step, open_stage(step, context)
            if only is not None:
                probe_clip(task, self._open[1], only)
                return None
            return run_unit(task, self._open[1])
        except UniformError as error:
            return error


_Actor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_Worker)


_HostStatesActor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(HostStatesServer)


@dataclass(frozen=True)
class ClusterHostStates:
    """The states of hosts for all workers of a cluster. See `pipelines.hosts.HostStates`."""

    folder: Path
    """Where the states of this run's hosts are kept."""

    def reserve(self, host: str, policy: HostPolicy, chance: float) -> float:
        """See HostStates."""
        return self._call("reserve", host, policy, chance)

    def is_cooling_down(self, host: str) -> bool:
        """See HostStates."""
        return bool(self._call("is_cooling_down", host))

    def learn(self, host: str, policy: HostPolicy, refusal: str | None, retry_after_s: float | None) -> bool:
        """See HostStates."""
        return bool(self._call("learn", host, policy, refusal, retry_after_s))

    def _call(self, method: str, *args: Any) -> float:
        for wait_s in HOST_STATES_TIMEOUT_S:
            actor = _HostStatesActor.options(
                name=HOST_STATES_ACTOR, namespace=HOST_STATES_ACTOR, lifetime="detached", get_if_exists=True
            ).remote()
            try:
                answer: float | FetchError = ray.get(actor.ask.remote(self.folder, method, *args))
            except RayActorError:
                time.sleep(wait_s)  # a run that ended has killed it; the new actor reads the states from the folders
                continue
            if isinstance(answer, FetchError):
                raise answer
            return answer
        raise PipelineError(
            f"the actor '{HOST_STATES_ACTOR}', which limits requests to hosts, dies again and again. See Ray's logs."
        )


def release_host_states_actor() -> None:
    """Kill the actor that holds the states of hosts; another run that needs it starts a new one."""
    with contextlib.suppress(ValueError):  # no stage has started it
        ray.kill(ray.get_actor(HOST_STATES_ACTOR, namespace=HOST_STATES_ACTOR))


@dataclass(frozen=True)
class _Job:
    """A unit; or one clip of it, to see whether that clip kills the worker."""

    task: UnitTask
    only: str | None = None


@dataclass
class _Suspect:
    """A unit that killed workers."""

    deaths: int = 0
    left: int = 0
    """Clips that are still to be tried alone."""
    banned: dict[str, str] = field(default_factory=dict)


class RayBackend:
    """Does units in Ray actors, on this machine or on a cluster. A context manager: it ends Ray where it started it.

    Args:
        workers: actors per stage; None takes one for each core, or each accelerator that the stage asks for.
        address: of a running cluster; None starts Ray on this machine, when the first unit needs it.
    """

    def __init__(self, *, workers: int | None = None, address: str | None = None) -> None:
        if workers is not None and workers < 1:
            raise PipelineError(f"--workers is {workers}; it must be 1 or more")
        self._wanted = workers
        self._address = address
        self._started = False
        self._size: dict[str, float] = {}
        self._idle: list[Any] = []

    def __enter__(self) -> "RayBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss(self._idle)
        if ray.is_initialized():
            release_host_states_actor()
        if self._started:
            ray.shutdown()

    def run_stage(
        self, step: StageStep, tasks: Iterable[UnitTask], context: Context, listener: Listener
    ) -> Iterator[Commit]:
        """See `pipelines.run.pipeline.Backend`."""
        waiting = iter(tasks)
        first = next(waiting, None)
        if first is None:
            return
        fix = "Check --address, or work without Ray: add --inline"
        self._started |= join_ray(self._address, cores=self._wanted or 1, fix=fix)
        size = _size(step.stage.resources, with_memory=self._address is not None)
        if size != self._size:
            self._dismiss(self._idle)
            self._idle, self._size = [], size
        shared = replace(context, host_states=ClusterHostStates)
        pool = _Pool(self._idle, size, self._workers(step, size), shared, listener)
        try:
            yield from pool.run(itertools.chain([first], waiting))
        finally:
            self._dismiss([worker for worker, _ in pool.busy.values()])

    def _workers(self, step: StageStep, size: dict[str, float]) -> int:
        """How many actors of this size fit into the cluster. Raises PipelineError where none fits."""
        have = cluster_totals()
        fit: int = min(math.floor(have[name] / wanted) for name, wanted in size.items())
        if fit < 1:
            raise PipelineError(
                f"stage '{step.name}' needs {_amounts(size)} for one worker, but Ray has {_amounts(have)}. "
                f"Change the stage's device, name a larger cluster by --address, or add --inline"
            )
        return fit if self._wanted is None else min(self._wanted, fit)

    @staticmethod
    def _dismiss(workers: Iterable[Any]) -> None:
        for worker in workers:
            ray.kill(worker)


class _Pool:
    """The actors of one stage, each with at most one job."""

    def __init__(
        self, idle: list[Any], size: dict[str, float], workers: int, context: Context, listener: Listener
    ) -> None:
        self.busy: dict[Any, tuple[Any, _Job]] = {}
        self._idle = idle
        self._size = size
        self._workers = workers
        self._context = ray.put(context)
        self._listener = listener
        self._retries: deque[_Job] = deque()
        self._suspects: dict[int, _Suspect] = {}
        self._error: UniformError | None = None

    def run(self, tasks: Iterator[UnitTask]) -> Iterator[Commit]:
        """Commits, as units end. After an error no new unit is started, and the units in progress end first."""
        while True:
            while self._error is None and len(self.busy) < self._workers:
                job = self._retries.popleft() if self._retries else _next_job(tasks)
                if job is None:
                    break
                self._start(job)
            if not self.busy:
                break
            (ready, *_), _ = ray.wait(list(self.busy), num_returns=1)
            commit = self._end(ready)
            if commit is not None:
                yield commit
        if self._error is not None:
            raise self._error

    def _start(self, job: _Job) -> None:
        worker = self._idle.pop() if self._idle else _Actor.options(**self._size).remote()
        self.busy[worker.do.remote(job.task, self._context, job.only)] = worker, job

    def _end(self, ready: Any) -> Commit | None:
        worker, job = self.busy.pop(ready)
        try:
            result = ray.get(ready)
        except RayTaskError as error:
            self._idle.append(worker)
            message = f"stage '{job.task.stage}', unit {job.task.unit}: {error}. Nothing of this unit was committed."
            self._stop(PipelineError(message))
            return None
        except RayError as error:
            self._died(job, error)
            return None
        self._idle.append(worker)
        if job.only is not None:
            self._tried(job)  # an error of one clip alone will be raised by its unit again
        elif isinstance(result, UniformError):
            self._stop(result)
        return result if isinstance(result, Commit) else None

    def _died(self, job: _Job, error: RayError) -> None:
        unit, suspect = job.task.unit, self._suspects.setdefault(job.task.unit, _Suspect())
        where = f"stage '{job.task.stage}', unit {unit}"
        if job.only is not None:
            suspect.banned[job.only] = f"{MAX_DEATHS} workers died on its unit, and one on this clip alone"
            self._listener.warn(f"{where}: clip {job.only} kills its worker and is dropped")
            self._tried(job)
            return
        suspect.deaths += 1
        self._listener.warn(f"{where}: its worker died ({suspect.deaths} so far)")
        if suspect.deaths == MAX_DEATHS:
            self._listener.warn(f"{where}: its clips are tried one by one")
            suspect.left = len(job.task.rows)
            self._retries.extend(_Job(job.task, row.clip_id) for row in job.task.rows)
        elif suspect.deaths < 2 * MAX_DEATHS:
            self._retries.append(job)
        else:
            message = (
                f"{where}: {suspect.deaths} workers died on it, but none on a clip of it alone. Most likely the "
                f"machine's memory is too small for so many workers: choose fewer by --workers, or a smaller "
                f"unit_clips. The last error: {error}"
            )
            self._stop(PipelineError(message))

    def _stop(self, error: UniformError) -> None:
        """Start no new unit. The warning comes at once, since the units in progress may take hours."""
        if self._error is not None:
            return
        self._error = error
        if self.busy:
            units = f"{len(self.busy)} units in progress end first"
            self._listener.warn(f"the run stops: no new unit is started, and {units}. {error}")

    def _tried(self, job: _Job) -> None:
        suspect = self._suspects[job.task.unit]
        suspect.left -= 1
        if suspect.left == 0:
            self._retries.append(_Job(replace(job.task, banned={**job.task.banned, **suspect.banned})))


def _size(resources: Resources, with_memory: bool) -> dict[str, float]:
    """What Ray reserves for one actor. Stages that need at most one core share actors, so that few processes start."""
    size = {"num_cpus": max(1.0, resources.cpus)}
    if resources.gpus:
        size["num_gpus"] = resources.gpus
    if with_memory:
        size["memory"] = resources.memory_gb * 2**30
    return size


def _amounts(amounts: dict[str, float]) -> str:
    counted = Counter(amounts)
    texts = [f"{counted['num_cpus']:g} cores", f"{counted['num_gpus']:g} accelerators"]
    return ", ".join([*texts, f"{counted['memory'] / 2**30:.1f} GB"] if counted["memory"] else texts)


def _next_job(tasks: Iterator[UnitTask]) -> _Job | None:
    task = next(tasks, None)
    return None if task is None else _Job(task)
