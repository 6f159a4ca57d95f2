"""Workers by resource class. They are asked of Ray, not counted: a request waits until a node has room for it.

Only a worker that has reported ready, from a node that has passed its check, gets work. An idle worker is released
when another class waits for its cores, and after a while in any case.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

from pipelines.cluster.placement import ResourceClass
from pipelines.cluster.suspects import Job
from pipelines.cluster.worker import WorkerActor

MOST_PENDING = 8
"""Requests of one class that may wait at once."""
RELEASE_S = 1.0
"""A class without a worker may wait so long before idle workers of others are released."""
RELEASE_EVERY_S = 10.0
"""Between two releases of busy classes for one waiting class: a process takes a while to start."""
IDLE_S, IDLE_ACCELERATOR_S = 10.0, 60.0
"""Idle workers are released after it; those with an accelerator later, since their models take long to load."""
NODE_ID_LABEL = "ray.io/node-id"


@dataclass(eq=False)
class WorkerSlot:
    """One actor: asked for, starting, idle, or with a job."""

    actor: Any
    kind: ResourceClass
    hello: Any
    """Reference of its report; None once it has reported."""
    since_s: float = field(default_factory=time.monotonic)
    """When it was asked for, became idle, or got its job."""
    node_id: str | None = None
    verified: bool = False
    job: Job | None = None
    ref: Any = None
    jobs_done: int = 0
    stuck: bool = False
    """It was ended because its job took too long."""

    @property
    def idle(self) -> bool:
        """Whether it can take a job."""
        return self.verified and self.job is None

    @property
    def pending(self) -> bool:
        """Whether it has not reported yet."""
        return self.hello is not None


class WorkerPool:
    """The workers of a run, or of several runs one after another.

    Args:
        most: workers of one class; None sets no limit.
    """

    def __init__(self, most: int | None) -> None:
        self.slots: list[WorkerSlot] = []
        self.failed_starts: list[str] = []
        """Messages of workers that did not start, since the last one that did."""
        self._most = most
        self._refused: list[str] = []
        self._released_s: dict[ResourceClass, float] = {}
        self._not_before_s = 0.0

    def keep_only(self, classes: Iterable[ResourceClass]) -> None:
        """Release workers of other classes than these."""
        wanted = set(classes)
        self.dismiss([slot for slot in self.slots if slot.kind not in wanted])

    def dismiss(self, slots: Sequence[WorkerSlot]) -> None:
        """End workers."""
        gone = set(map(id, slots))
        self.slots = [slot for slot in self.slots if id(slot) not in gone]
        for slot in slots:
            ray.kill(slot.actor)

    def of(self, kind: ResourceClass) -> list[WorkerSlot]:
        """The workers of a class, in any condition."""
        return [slot for slot in self.slots if slot.kind == kind]

    @property
    def ready(self) -> int:
        """Workers that have reported."""
        return sum(not slot.pending for slot in self.slots)

    @property
    def references(self) -> list[Any]:
        """What may end: reports and jobs."""
        return [one for slot in self.slots for one in (slot.hello, slot.ref) if one is not None]

    def request(self, kind: ResourceClass, jobs: int, cap: int | None) -> None:
        """Ask Ray for workers, so that there is one for each of `jobs` jobs that wait, within the limits."""
        if time.monotonic() < self._not_before_s:
            return
        there = self.of(kind)
        limits = [limit for limit in (self._most, cap) if limit is not None]
        free = sum(slot.idle or slot.pending or not slot.verified for slot in there)
        pending = sum(slot.pending for slot in there)
        wanted = min(jobs - free, MOST_PENDING - pending, *(limit - len(there) for limit in limits))
        for _ in range(wanted):
            options = dict(kind.options)
            if self._refused:
                hard: Any = {NODE_ID_LABEL: NotIn(*self._refused)}  # type: ignore[no-untyped-call]
                options["scheduling_strategy"] = NodeLabelSchedulingStrategy(hard)
            actor = WorkerActor.options(**options).remote()
            self.slots.append(WorkerSlot(actor, kind, actor.hello.remote()))

    def refuse(self, node_ids: Sequence[str]) -> None:
        """Use these nodes no more: workers there are ended, and requests that could be placed there are renewed."""
        if sorted(node_ids) == sorted(self._refused):
            return
        self._refused = list(node_ids)
        self.dismiss(
            [slot for slot in self.slots if slot.job is None and (slot.pending or slot.node_id in self._refused)]
        )

    def take_reports(self, done: set[Any]) -> int:
        """Note workers that have reported. Returns how many did."""
        reported = 0
        for slot in [one for one in self.slots if one.hello in done]:
            try:
                slot.node_id = ray.get(slot.hello)
            except RayError as error:
                self.dismiss([slot])
                self.failed_starts.append(str(error).strip())
                self.slow_down(len(self.failed_starts))
                continue
            slot.hello, slot.since_s = None, time.monotonic()
            self.failed_starts.clear()
            reported += 1
        return reported

    def slow_down(self, times: int) -> None:
        """Ask for no worker for a while, that doubles with each fault in a row, up to half a minute."""
        self._not_before_s = time.monotonic() + min(30.0, 0.5 * 2**times)

    def verify(self, usable: Callable[[str], bool]) -> None:
        """Let workers of nodes that have passed their check take jobs."""
        for slot in self.slots:
            if not slot.verified and slot.node_id is not None and usable(slot.node_id):
                slot.verified = True

    def give(self, slot: WorkerSlot, job: Job, context: Any) -> None:
        """Start a job on an idle worker."""
        slot.job, slot.since_s = job, time.monotonic()
        slot.ref = slot.actor.do.remote(job.task, context, job.only)

    def end_job(self, slot: WorkerSlot) -> Job:
        """A worker's job has ended, and it lives."""
        job = slot.job
        if job is None:
            raise AssertionError("a worker without a job ended one")
        slot.job, slot.ref, slot.since_s = None, None, time.monotonic()
        slot.jobs_done += 1
        return job

    def waiting(
        self, classes: Sequence[ResourceClass], waiting_jobs: Mapping[ResourceClass, int]
    ) -> ResourceClass | None:
        """The first class that has jobs and no worker, whose request has waited for a while."""
        now = time.monotonic()
        for kind in classes:
            there = self.of(kind)
            asked = [slot.since_s for slot in there if slot.pending]
            if waiting_jobs.get(kind) and len(asked) == len(there) and asked and now - min(asked) > RELEASE_S:
                return kind
        return None

    def release_idle(self, starved: ResourceClass | None) -> None:
        """End workers that have been idle for long, and one that a class without a worker may be waiting for."""
        now = time.monotonic()
        idle = sorted((slot for slot in self.slots if slot.idle), key=lambda slot: slot.since_s)
        gone = [slot for slot in idle if now - slot.since_s > (IDLE_ACCELERATOR_S if slot.kind.gpus else IDLE_S)]
        if starved is not None and not gone:
            gone = [slot for slot in idle if slot.kind != starved and now - slot.since_s > RELEASE_S][:1]
        self.dismiss(gone)

    def yields_to(self, kind: ResourceClass, starved: ResourceClass, nodes: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a worker of `kind` that has just ended a job makes room for a class that has none. At most one does.

        Its requests are withdrawn too, else they would take the room. A class that no node can hold gets no room.
        """
        now = time.monotonic()
        if kind == starved or now - self._released_s.get(starved, 0.0) < RELEASE_EVERY_S:
            return False
        if not any(starved.fits(node["Resources"]) for node in nodes):
            return False
        self._released_s[starved] = now
        self.dismiss([slot for slot in self.of(kind) if slot.pending])
        return True
