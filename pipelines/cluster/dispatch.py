"""The loop of a run on Ray: events, faults, requests for workers, jobs for those that are ready."""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError

from pipelines.cluster.nodes import NodeChecks, alive_nodes
from pipelines.cluster.placement import ResourceClass
from pipelines.cluster.pool import WorkerPool, WorkerSlot
from pipelines.cluster.suspects import Job, Suspects
from pipelines.cluster.verdicts import Verdicts
from pipelines.run.commits import Commit
from pipelines.run.listener import Listener
from pipelines.run.work_queue import WorkQueue
from uniform.errors import PipelineError, UniformError

TICK_S = 0.5
"""Longest wait for an event; then everything is looked at again."""
LOOK_S = 2.0
"""Between two looks at the nodes."""
STALL_S = 45.0
"""Without progress for so long, one line says what is waited for; then after twice as long, and so on."""
HEAD_TIMEOUT_S = 20.0
"""The head may be out of reach for so long before the run ends."""
MOST_FAILED_STARTS = 8
"""Workers in a row that may fail to start, while no node is found guilty of it."""
DEFAULT_WAITING_WORKERS = 16
"""Workers of a stage that waits for other machines, where the recipe sets no limit."""


class Dispatcher:
    """One run of a queue.

    Args:
        pool: workers; those that are idle may come from an earlier run.
        classes: of the queue's stages, the one with the last stage first.
        queue: the tasks.
        context: reference of the stages' context.
        listener: hears warnings.
        checks: of the nodes; None trusts them, for a Ray on this machine.
    """

    def __init__(
        self,
        pool: WorkerPool,
        classes: Sequence[ResourceClass],
        queue: WorkQueue,
        context: Any,
        listener: Listener,
        checks: NodeChecks | None,
    ) -> None:
        self.head_is_lost = False
        self._pool, self._classes, self._queue = pool, classes, queue
        self._context, self._listener, self._checks = context, listener, checks
        self._suspects = Suspects()
        self._verdicts = Verdicts()
        self._class_of = {stage: kind for kind in classes for stage in kind.stages}
        self._error: UniformError | None = None
        self._nodes: list[dict[str, Any]] = []
        self._looked_s = -LOOK_S
        self._progress_s = time.monotonic()
        self._stall_s = STALL_S
        self._head_s = time.monotonic()
        self._memory_faults = 0

    def run(self) -> Iterator[Commit]:
        """Commits, as units end. After an error no new unit is started, and the units in progress end first."""
        while True:
            self._look()
            self._assign()
            busy = [slot for slot in self._pool.slots if slot.job is not None]
            if not busy and not self._verdicts.pending and not self._more():
                break
            references = [*self._pool.references, *self._verdicts.pending]
            references += self._checks.pending if self._checks else []
            if references:
                done, _ = ray.wait(references, num_returns=len(references), timeout=0)
                if not done:
                    done, _ = ray.wait(references, num_returns=1, timeout=TICK_S)
            else:
                done = []
                time.sleep(TICK_S)
            yield from self._events(set(done))
            self._end_stuck()
            self._show_stall()
        if self._error is not None:
            raise self._error

    def _more(self) -> bool:
        """Whether more jobs may start."""
        return self._error is None and self._queue.open

    def _look(self) -> None:
        """At nodes and the head, from time to time."""
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        self._look_at_head(now)
        if self._checks is None:
            self._nodes = alive_nodes()
            self._pool.verify(lambda _: True)
            return
        self._nodes = self._checks.look()
        self._take_node_reports()

    def _take_node_reports(self) -> None:
        if self._checks is None:
            return
        for report in self._checks.collect():
            if report.problem is not None:
                self._listener.warn(f"node {report.name} is left out: {report.problem}")
        refused = self._checks.refused
        self._pool.refuse(refused)
        alive = {node["NodeID"] for node in self._nodes if node["Resources"].get("CPU", 0.0) > 0}
        if alive and not self._checks.pending and alive <= set(refused) and self._error is None:
            problems = "; ".join(
                f"{report.name}: {report.problem}"
                for report in self._checks.reports.values()
                if report.node_id in alive
            )
            self._stop(PipelineError(f"no node of the cluster can be used. {problems}"))

    def _look_at_head(self, now: float) -> None:
        """Raises PipelineError where the head has been out of reach for long: Ray alone would end this process."""
        address = ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
            self._head_s = now
        except OSError as error:
            while time.monotonic() - self._head_s < HEAD_TIMEOUT_S:
                time.sleep(1.0)
                try:
                    socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
                except OSError:
                    continue
                self._head_s = time.monotonic()
                return
            self.head_is_lost = True
            raise PipelineError(
                f"the head of the Ray cluster ({address}) has not answered for {HEAD_TIMEOUT_S:g} s ({error}). What is "
                f"committed counts: start the cluster again, then the same command goes on"
            ) from error

    def _events(self, done: set[Any]) -> Iterator[Commit]:
        if self._pool.take_reports(done):
            self._progress()
        if self._checks is None:
            self._pool.verify(lambda _: True)
        else:
            self._take_node_reports()
            good = {node_id for node_id, report in self._checks.reports.items() if report.problem is None}
            self._pool.verify(good.__contains__)
        if len(self._pool.failed_starts) >= MOST_FAILED_STARTS and not (self._checks and self._checks.pending):
            self._stop(PipelineError(f"workers do not start: {self._pool.failed_starts[-1]}"))
        for slot in [one for one in self._pool.slots if one.ref in done]:
            commit = self._end(slot)
            if commit is not None:
                self._progress()
                yield commit
        for job, node_died in self._verdicts.collect(done):
            self._judge(job, node_died)

    def _end(self, slot: WorkerSlot) -> Commit | None:
        try:
            result = ray.get(slot.ref)
        except RayTaskError as error:
            job = self._pool.end_job(slot)
            self._stop(PipelineError(f"{job.where}: {error}. Nothing of this unit was committed."))
            return None
        except RayError as error:
            self._lost(slot, error)
            return None
        job = self._pool.end_job(slot)
        if job.only is not None:
            self._suspects.tried(job)  # an error of one clip alone will be raised by its unit again
        elif isinstance(result, UniformError):
            self._stop(result)
        return result if isinstance(result, Commit) else None

    def _lost(self, slot: WorkerSlot, error: RayError) -> None:
        """A worker is gone, or out of reach: find out why before anybody is blamed."""
        job = self._pool.end_job(slot)
        stuck, node_id = slot.stuck, slot.node_id
        self._pool.dismiss([slot])
        self._progress()
        if stuck:
            limit_s = self._queue.schedule.stage_timeout_s[job.task.stage]
            self._blame(job, f"its worker was stuck for {limit_s:g} s and was ended")
        elif isinstance(error, OutOfMemoryError) or _is_memory_monitor(error):
            self._memory_faults += 1
            self._pool.slow_down(self._memory_faults)
            self._machine_fault(job, "Ray's memory monitor ended its worker")
        elif isinstance(error, ActorUnavailableError):
            self._machine_fault(job, "its worker is out of reach")
        elif node_id is None:
            self._machine_fault(job, "its worker was lost")
        else:
            self._verdicts.ask(job, node_id)

    def _judge(self, job: Job, node_died: bool) -> None:
        self._progress()
        if node_died:
            self._machine_fault(job, "its node was lost")
        else:
            self._blame(job, "its worker died")

    def _machine_fault(self, job: Job, how: str) -> None:
        self._listener.warn(f"{job.where}: {how}; it is done again")
        self._suspects.again(job)

    def _blame(self, job: Job, how: str) -> None:
        text, fatal = self._suspects.died(job, how)
        if fatal:
            self._stop(PipelineError(text))
        else:
            self._listener.warn(text)

    def _stop(self, error: UniformError) -> None:
        """Start no new unit. The warning comes at once, since the units in progress may take hours."""
        if self._error is not None:
            return
        self._error = error
        busy = sum(slot.job is not None for slot in self._pool.slots)
        if busy:
            units = f"{busy} units in progress end first"
            self._listener.warn(f"the run stops: no new unit is started, and {units}. {error}")

    def _assign(self) -> None:
        """Give jobs to ready workers, ask for more workers, and release those that others wait for."""
        if not self._more():
            return
        self._queue.scheduler.set_workers(self._pool.ready)
        waiting = self._waiting_jobs()
        starved = self._pool.waiting(self._classes, waiting)
        for kind in self._classes:
            for slot in self._pool.of(kind):
                if slot.idle and not self._give(slot, starved):
                    break
        waiting = self._waiting_jobs()
        starved = self._pool.waiting(self._classes, waiting)
        for kind in self._classes:
            held_back = starved is not None and self._classes.index(starved) < self._classes.index(kind)
            if waiting[kind] and not held_back:
                self._pool.request(kind, waiting[kind], self._cap(kind))
        self._pool.release_idle(starved)

    def _give(self, slot: WorkerSlot, starved: ResourceClass | None) -> bool:
        """Give a job to an idle worker. Returns False where its class has none."""
        earlier = starved is not None and self._classes.index(starved) < self._classes.index(slot.kind)
        if starved is not None and earlier and slot.jobs_done and self._pool.yields_to(slot.kind, starved, self._nodes):
            self._pool.dismiss([slot])
            return True
        for job in list(self._suspects.jobs):
            if self._class_of[job.task.stage] == slot.kind:
                if job.fresh and slot.jobs_done:
                    self._pool.dismiss([slot])  # a fresh one is asked for
                    return True
                self._suspects.jobs.remove(job)
                self._pool.give(slot, job, self._context)
                return True
        task = self._queue.take(slot.kind.stages)
        if task is None:
            return False
        self._pool.give(slot, Job(task), self._context)
        return True

    def _waiting_jobs(self) -> dict[ResourceClass, int]:
        found = dict.fromkeys(self._classes, 0)
        for stage, count in self._queue.ready().items():
            found[self._class_of[stage]] += count
        for job in self._suspects.jobs:
            found[self._class_of[job.task.stage]] += 1
        return found

    def _cap(self, kind: ResourceClass) -> int | None:
        limits: Mapping[str, int] = self._queue.schedule.max_workers
        caps = [limits.get(stage, DEFAULT_WAITING_WORKERS if kind.waits else None) for stage in kind.stages]
        known = [cap for cap in caps if cap is not None]
        return sum(known) if len(known) == len(caps) else None

    def _end_stuck(self) -> None:
        limits = self._queue.schedule.stage_timeout_s
        for slot in self._pool.slots:
            limit_s = limits.get(slot.job.task.stage) if slot.job and not slot.stuck else None
            if limit_s is not None and time.monotonic() - slot.since_s > limit_s:
                slot.stuck = True
                ray.kill(slot.actor)

    def _progress(self) -> None:
        self._progress_s, self._stall_s = time.monotonic(), STALL_S

    def _show_stall(self) -> None:
        """One line where nothing has moved for a while."""
        quiet_s = time.monotonic() - self._progress_s
        if quiet_s < self._stall_s:
            return
        self._stall_s = 2 * self._stall_s
        busy: dict[str, int] = {}
        asked: dict[ResourceClass, int] = {}
        for slot in self._pool.slots:
            if slot.job is not None:
                busy[slot.job.task.stage] = busy.get(slot.job.task.stage, 0) + 1
            elif slot.pending:
                asked[slot.kind] = asked.get(slot.kind, 0) + 1
        parts = [f"{count} units in progress at '{stage}'" for stage, count in busy.items()]
        parts += [
            f"{count} workers for '{kind.stages[-1]}', each with {kind}, that Ray has not placed"
            for kind, count in asked.items()
        ]
        have = {name: sum(node["Resources"].get(name, 0.0) for node in self._nodes) for name in ("CPU", "GPU")}
        self._listener.warn(
            f"no progress for {quiet_s:.0f} s. Waiting for: {'; '.join(parts) or 'nodes to be checked'}. "
            f"The cluster has {len(self._nodes)} nodes with {have['CPU']:g} cores and {have['GPU']:g} accelerators; "
            f"others may use them too"
        )


def _is_memory_monitor(error: RayError) -> bool:
    """By the text: the message of every other death mentions memory too, as a guess."""
    return "running low on memory" in str(error)
