"""Units on a Ray cluster, one actor for each unit at a time.

What travels is ids and paths in, commit markers out; frames and latents never cross the object store. A worker that
dies is replaced and its unit is done again. A unit that kills three workers is looked at clip by clip, until the clip
that does it is found; that clip is rejected as `worker_crash` and the rest of the unit lives.
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
"""Workers that may die on a unit before it is looked at clip by clip, and again after that before the run ends."""
HOST_STATES_ACTOR = "uniform-hosts"
"""Name and namespace of the actor that keeps the book of hosts, one for the whole cluster."""
HOST_STATES_TIMEOUT_S = (0.1, 0.5, 2.0, 5.0)


class _Worker:
    """One process. It opens a stage once and keeps it while its units come."""

    def __init__(self) -> None:
        self._open: tuple[StageStep, Work] | None = None

    def do(self, task: UnitTask, context: Context, only: str | None) -> Commit | UniformError | None:
        """Do a unit, or look at one clip of it alone. What the user can mend comes back as a value."""
        try:
            instance = task.recipe.instance(task.stage)
            if self._open is None or self._open[0] != instance:
                self._open = None  # let go of the old stage before the new one takes its memory
                self._open = instance, open_stage(instance, context)
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
    """Where this run's part of it is kept."""

    def reserve(self, host: str, policy: HostPolicy, chance: float) -> float:
        """See HostStates."""
        return self._ask("reserve", host, policy, chance)

    def is_cooling_down(self, host: str) -> bool:
        """See HostStates."""
        return bool(self._ask("rests", host))

    def learn(self, host: str, policy: HostPolicy, refusal: str | None, retry_after_s: float | None) -> bool:
        """See HostStates."""
        return bool(self._ask("learn", host, policy, refusal, retry_after_s))

    def _ask(self, question: str, *args: Any) -> float:
        for wait_s in HOST_STATES_TIMEOUT_S:
            keeper = _HostStatesActor.options(
                name=HOST_STATES_ACTOR, namespace=HOST_STATES_ACTOR, lifetime="detached", get_if_exists=True
            ).remote()
            try:
                answer: float | FetchError = ray.get(keeper.ask.remote(self.folder, question, *args))
            except RayActorError:
                time.sleep(wait_s)  # a run that has ended took it along; the next one knows what the folders say
                continue
            if isinstance(answer, FetchError):
                raise answer
            return answer
        raise PipelineError(
            f"the actor '{HOST_STATES_ACTOR}', which limits requests to hosts, cannot be kept alive. See Ray's logs."
        )


def release_host_states_actor() -> None:
    """End the keeper of hosts; another run that needs it starts its own."""
    with contextlib.suppress(ValueError):  # nobody needed it
        ray.kill(ray.get_actor(HOST_STATES_ACTOR, namespace=HOST_STATES_ACTOR))


@dataclass(frozen=True)
class _Job:
    """A unit; or one clip of it, to see whether it is the one that kills."""

    task: UnitTask
    only: str | None = None


@dataclass
class _Suspect:
    """A unit that killed workers."""

    deaths: int = 0
    left: int = 0
    """Clips that are still to be looked at alone."""
    banned: dict[str, str] = field(default_factory=dict)


class RayBackend:
    """Does units in Ray actors, on this machine or on a cluster. A context manager: Ray ends with it.

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
        self, instance: StageStep, tasks: Iterable[UnitTask], context: Context, listener: Listener
    ) -> Iterator[Commit]:
        """See `pipelines.run.pipeline.Backend`."""
        waiting = iter(tasks)
        first = next(waiting, None)
        if first is None:
            return
        instead = "Check --address, or work without Ray: add --inline"
        self._started |= join_ray(self._address, cores=self._wanted or 1, instead=instead)
        size = _size(instance.stage.resources, with_memory=self._address is not None)
        if size != self._size:
            self._dismiss(self._idle)
            self._idle, self._size = [], size
        shared = replace(context, host_states=ClusterHostStates)
        pool = _Pool(self._idle, size, self._workers(instance, size), shared, listener)
        try:
            yield from pool.run(itertools.chain([first], waiting))
        finally:
            self._dismiss([worker for worker, _ in pool.busy.values()])

    def _workers(self, instance: StageStep, size: dict[str, float]) -> int:
        """How many actors of this size the cluster holds. Raises PipelineError where it holds none."""
        have = cluster_totals()
        fit: int = min(math.floor(have[name] / wanted) for name, wanted in size.items())
        if fit < 1:
            raise PipelineError(
                f"stage '{instance.name}' wants {_told(size)} for one worker, but Ray has {_told(have)}. "
                f"Change the stage's device, give a larger cluster by --address, or add --inline"
            )
        return fit if self._wanted is None else min(self._wanted, fit)

    @staticmethod
    def _dismiss(workers: Iterable[Any]) -> None:
        for worker in workers:
            ray.kill(worker)


class _Pool:
    """The actors of one bracket, each with at most one job."""

    def __init__(
        self, idle: list[Any], size: dict[str, float], workers: int, context: Context, listener: Listener
    ) -> None:
        self.busy: dict[Any, tuple[Any, _Job]] = {}
        self._idle = idle
        self._size = size
        self._workers = workers
        self._context = ray.put(context)
        self._listener = listener
        self._again: deque[_Job] = deque()
        self._suspects: dict[int, _Suspect] = {}
        self._trouble: UniformError | None = None

    def run(self, tasks: Iterator[UnitTask]) -> Iterator[Commit]:
        """Commits, as they come. Once something is wrong nothing new is begun, and what is under way ends first."""
        while True:
            while self._trouble is None and len(self.busy) < self._workers:
                job = self._again.popleft() if self._again else _next_job(tasks)
                if job is None:
                    break
                self._begin(job)
            if not self.busy:
                break
            (ready, *_), _ = ray.wait(list(self.busy), num_returns=1)
            commit = self._end(ready)
            if commit is not None:
                yield commit
        if self._trouble is not None:
            raise self._trouble

    def _begin(self, job: _Job) -> None:
        worker = self._idle.pop() if self._idle else _Actor.options(**self._size).remote()
        self.busy[worker.do.remote(job.task, self._context, job.only)] = worker, job

    def _end(self, ready: Any) -> Commit | None:
        worker, job = self.busy.pop(ready)
        try:
            result = ray.get(ready)
        except RayTaskError as error:
            self._idle.append(worker)
            told = f"stage '{job.task.stage}', unit {job.task.unit}: {error}. Nothing of this unit was committed."
            self._stop(PipelineError(told))
            return None
        except RayError as error:
            self._died(job, error)
            return None
        self._idle.append(worker)
        if job.only is not None:
            self._looked_at(job)  # what a clip alone raises, the unit will raise again
        elif isinstance(result, UniformError):
            self._stop(result)
        return result if isinstance(result, Commit) else None

    def _died(self, job: _Job, error: RayError) -> None:
        unit, suspect = job.task.unit, self._suspects.setdefault(job.task.unit, _Suspect())
        where = f"stage '{job.task.stage}', unit {unit}"
        if job.only is not None:
            suspect.banned[job.only] = f"{MAX_DEATHS} workers died on its unit, and one on this clip alone"
            self._listener.warning(f"{where}: clip {job.only} kills its worker and is rejected")
            self._looked_at(job)
            return
        suspect.deaths += 1
        self._listener.warning(f"{where}: its worker died ({suspect.deaths} so far)")
        if suspect.deaths == MAX_DEATHS:
            self._listener.warning(f"{where}: looking at its clips one by one")
            suspect.left = len(job.task.rows)
            self._again.extend(_Job(job.task, row.clip_id) for row in job.task.rows)
        elif suspect.deaths < 2 * MAX_DEATHS:
            self._again.append(job)
        else:
            told = (
                f"{where}: {suspect.deaths} workers died on it, but none on a clip of it alone. Most likely the "
                f"machine's memory is too small for so many workers: choose fewer by --workers, or a smaller "
                f"unit_clips. The last one said: {error}"
            )
            self._stop(PipelineError(told))

    def _stop(self, error: UniformError) -> None:
        """Begin nothing more. Said at once, for what is under way may take hours."""
        if self._trouble is not None:
            return
        self._trouble = error
        if self.busy:
            first = f"what is under way ends first ({len(self.busy)} units)"
            self._listener.warning(f"the run stops: nothing new is begun, and {first}. {error}")

    def _looked_at(self, job: _Job) -> None:
        suspect = self._suspects[job.task.unit]
        suspect.left -= 1
        if suspect.left == 0:
            self._again.append(_Job(replace(job.task, banned={**job.task.banned, **suspect.banned})))


def _size(resources: Resources, with_memory: bool) -> dict[str, float]:
    """What one actor asks of Ray. Stages that take up to a core share their actors, so that few processes start."""
    size = {"num_cpus": max(1.0, resources.cpus)}
    if resources.gpus:
        size["num_gpus"] = resources.gpus
    if with_memory:
        size["memory"] = resources.memory_gb * 2**30
    return size


def _told(amounts: dict[str, float]) -> str:
    counted = Counter(amounts)
    texts = [f"{counted['num_cpus']:g} cores", f"{counted['num_gpus']:g} accelerators"]
    return ", ".join([*texts, f"{counted['memory'] / 2**30:.1f} GB"] if counted["memory"] else texts)


def _next_job(tasks: Iterator[UnitTask]) -> _Job | None:
    task = next(tasks, None)
    return None if task is None else _Job(task)
