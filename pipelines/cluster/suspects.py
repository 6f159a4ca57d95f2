"""Whose fault was it that a worker died: the machine's, or one clip's?

Only deaths on a node that stays alive count. After `MAX_DEATHS` of them on one unit its clips are tried one by one. A
clip whose trial ends a worker is tried again, alone, in fresh workers; where it ends `FRESH_DEATHS` of those too, it is
dropped as `worker_crash`.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from pipelines.run.execute import UnitTask

MAX_DEATHS = 3
"""Workers that may die on a unit before its clips are tried one by one, and again after that before the run ends."""
FRESH_DEATHS = 2
"""Fresh workers that one clip alone must kill before it is dropped."""


@dataclass(frozen=True)
class Job:
    """A unit; or one clip of it, to see whether that clip kills the worker."""

    task: UnitTask
    only: str | None = None
    fresh: bool = False
    """It needs a worker that has done nothing yet."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"stage '{self.task.stage}', unit {self.task.unit}"


@dataclass
class _Suspect:
    """A unit that killed workers."""

    deaths: int = 0
    left: int = 0
    """Clips that are still to be tried."""
    clip_deaths: dict[str, int] = field(default_factory=dict)
    """Clip -> fresh workers that it killed alone."""
    banned: dict[str, str] = field(default_factory=dict)


class Suspects:
    """The units that killed workers, and the jobs that find out why."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        """To be done before new units."""
        self._suspects: dict[tuple[str, int], _Suspect] = {}

    def died(self, job: Job, how: str) -> tuple[str, bool]:
        """A worker died on a job, on a node that lives. Returns a warning, and whether the run must end."""
        suspect = self._suspects.setdefault((job.task.stage, job.task.unit), _Suspect())
        if job.only is not None:
            return self._clip_died(suspect, job, how), False
        suspect.deaths += 1
        text = f"{job.where}: {how} ({suspect.deaths} so far)"
        if suspect.deaths == MAX_DEATHS:
            suspect.left = len(job.task.rows)
            self.jobs.extend(Job(job.task, row.clip_id) for row in job.task.rows)
            return f"{text}; its clips are tried one by one", False
        if suspect.deaths < 2 * MAX_DEATHS:
            self.jobs.append(job)
            return text, False
        return (
            f"{job.where}: {suspect.deaths} workers died on it, but none on a clip of it alone. Most likely the "
            f"machine's memory is too small for so many workers: choose fewer by --workers, or a smaller unit_clips"
        ), True

    def tried(self, job: Job) -> None:
        """The trial of a clip ended without a death."""
        suspect = self._suspects[job.task.stage, job.task.unit]
        suspect.left -= 1
        if suspect.left == 0:
            self.jobs.append(Job(replace(job.task, banned={**job.task.banned, **suspect.banned})))

    def again(self, job: Job) -> None:
        """The job ended by a fault of the machines: the same job comes again."""
        self.jobs.append(job)

    def _clip_died(self, suspect: _Suspect, job: Job, how: str) -> str:
        clip_id = job.only or ""
        deaths = suspect.clip_deaths.get(clip_id, -1 if not job.fresh else 0) + 1
        suspect.clip_deaths[clip_id] = deaths
        if deaths < FRESH_DEATHS:
            self.jobs.appendleft(replace(job, fresh=True))
            return f"{job.where}: {how} at clip {clip_id} alone; the clip is tried again in a fresh worker"
        suspect.banned[clip_id] = f"{MAX_DEATHS} workers died on its unit, and {FRESH_DEATHS} fresh ones on it alone"
        self.tried(job)
        return f"{job.where}: clip {clip_id} kills its worker and is dropped"
