"""Which job comes next: an engine-free scheduler of units through stages. Both backends use it.

A job is a unit at a stage. It is ready when the stage before it has committed the unit; jobs of later stages go first,
so that few units lie half-finished on the disk. A stage with `scope = "all"` is a barrier: its first job is ready when
every unit is committed by the stage before it.
"""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.schedule import Schedule, Scope

LEAST_UNITS_IN_FLIGHT = 8
UNITS_PER_WORKER = 4
"""Without `max_units_in_flight`: so many units in flight for each worker, and at least as many as the line above."""


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """What the scheduler knows of a stage."""

    name: str
    scope: Scope = "unit"
    max_workers: int | None = None


@dataclass
class _Queue:
    """The jobs of one stage."""

    rule: StageRule
    ready: list[int] = field(default_factory=list)
    """Units, as a heap."""
    running: set[int] = field(default_factory=set)
    passed: int = 0
    """Units that the stage has committed."""
    held: list[int] = field(default_factory=list)
    """Units at the barrier before the stage."""

    @property
    def room(self) -> int:
        """Jobs that may start now, as far as the stage's own limit goes."""
        limit = self.rule.max_workers
        return len(self.ready) if limit is None else max(0, min(len(self.ready), limit - len(self.running)))


class Scheduler:
    """Hands out jobs in the order described above.

    Args:
        rules: the stages, in the order of the recipe.
        units: number of units.
        schedule: the limits.
        needs_work: asked once for each job, when every stage before it has committed the unit: whether the job is to
            be done; False where an earlier run has done it.
    """

    def __init__(
        self, rules: Sequence[StageRule], units: int, schedule: Schedule, needs_work: Callable[[str, int], bool]
    ) -> None:
        self._queues = [_Queue(rule) for rule in rules]
        self._places = {rule.name: place for place, rule in enumerate(rules)}
        self._units = units
        self._schedule = schedule
        self._needs_work = needs_work
        self._bytes: dict[int, int] = {}
        self._in_flight: set[int] = set()
        self._begun_bytes = [0, 0]
        self._workers = 0

    def start(self, begun: Mapping[int, int]) -> None:
        """Look at every unit once. `begun`: unit -> bytes that an earlier run has committed of it."""
        self._bytes = dict(begun)
        self._in_flight = set(begun)
        for unit in range(self._units):
            self._enter(unit, 0)

    def set_workers(self, workers: int) -> None:
        """How many workers there are now; the default of `max_units_in_flight` grows with them."""
        self._workers = workers

    @property
    def finished(self) -> bool:
        """Whether every unit has passed every stage."""
        return all(queue.passed == self._units for queue in self._queues)

    @property
    def units_in_flight(self) -> int:
        """Units that have begun, have not ended, and do not wait at a barrier."""
        return len(self._in_flight)

    @property
    def max_units_in_flight(self) -> int:
        """The limit that holds now."""
        wanted = self._schedule.max_units_in_flight
        return wanted or max(LEAST_UNITS_IN_FLIGHT, UNITS_PER_WORKER * self._workers)

    def passed(self, stage: str) -> bool:
        """Whether a stage has committed every unit."""
        return self._queues[self._places[stage]].passed == self._units

    def ready(self) -> dict[str, int]:
        """Stage -> jobs that may start now. The limit of units in flight is spread over the first stage's jobs."""
        found = {queue.rule.name: queue.room for queue in self._queues}
        first = self._queues[0]
        fresh = [unit for unit in first.ready if unit not in self._in_flight]
        begun = len(first.ready) - len(fresh)
        found[first.rule.name] = min(first.room, begun + min(len(fresh), self._fresh_room()))
        return found

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Stage -> (jobs that wait, jobs in progress, units committed)."""
        return {
            queue.rule.name: (len(queue.ready) + len(queue.held), len(queue.running), queue.passed)
            for queue in self._queues
        }

    def take(self, stages: Collection[str] | None = None) -> tuple[str, int] | None:
        """The next job (stage, unit) of some stages, or of all; None where none may start now."""
        for place in range(len(self._queues) - 1, -1, -1):
            queue = self._queues[place]
            if not queue.room or (stages is not None and queue.rule.name not in stages):
                continue
            unit = self._take_unit(queue)
            if unit is not None:
                queue.running.add(unit)
                self._in_flight.add(unit)
                return queue.rule.name, unit
        return None

    def put_back(self, stage: str, unit: int) -> None:
        """A job ended without a result: it is ready again."""
        queue = self._queues[self._places[stage]]
        queue.running.discard(unit)
        heapq.heappush(queue.ready, unit)

    def commit(self, stage: str, unit: int, size_bytes: int) -> None:
        """A job is committed; its results have so many bytes."""
        place = self._places[stage]
        queue = self._queues[place]
        queue.running.discard(unit)
        queue.passed += 1
        self._bytes[unit] = self._bytes.get(unit, 0) + size_bytes
        if place == 0:
            self._begun_bytes[0] += 1
            self._begun_bytes[1] += size_bytes
        self._enter(unit, place + 1)

    def _take_unit(self, queue: _Queue) -> int | None:
        if queue is not self._queues[0] or self._fresh_room() > 0:
            return heapq.heappop(queue.ready)
        begun = sorted(unit for unit in queue.ready if unit in self._in_flight)
        if not begun:
            return None
        queue.ready.remove(begun[0])
        heapq.heapify(queue.ready)
        return begun[0]

    def _fresh_room(self) -> int:
        """Units that may begin now. One may always begin where none is in flight, however small the limits are."""
        room = self.max_units_in_flight - len(self._in_flight)
        limit = self._schedule.max_intermediate_gb
        if limit is not None:
            made, size = self._begun_bytes
            each = size / made if made else 0.0
            held = sum(self._bytes.get(unit, 0) for unit in self._in_flight)
            coming = each * len(self._queues[0].running)
            left = limit * 1e9 - held - coming
            room = min(room, (room if not each else int(left // each)) if left > 0 else 0)
        return max(room, 0 if self._in_flight else 1)

    def _enter(self, unit: int, place: int, *, beyond_barrier: bool = False) -> None:
        """Bring a unit, which the stages before `place` have committed, to its next job."""
        for queue in self._queues[place:]:
            if queue.rule.scope == "all" and not beyond_barrier:
                self._hold(unit, queue)
                return
            beyond_barrier = False
            if self._needs_work(queue.rule.name, unit):
                heapq.heappush(queue.ready, unit)
                return
            queue.passed += 1
        self._in_flight.discard(unit)
        self._bytes.pop(unit, None)

    def _hold(self, unit: int, queue: _Queue) -> None:
        queue.held.append(unit)
        self._in_flight.discard(unit)  # else the limit could keep the units that the barrier waits for from beginning
        if len(queue.held) < self._units:
            return
        held, queue.held = queue.held, []
        for one in held:
            self._enter(one, self._places[queue.rule.name], beyond_barrier=True)
