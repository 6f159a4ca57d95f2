"""After a worker's death: does its node live? A tiny task that only that node can do finds out."""

import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cluster.suspects import Job

VERDICT_TIMEOUT_S = 60.0


@ray.remote(num_cpus=0, max_retries=0)
def _alive() -> bool:
    return True


class Verdicts:
    """Questions that are under way."""

    def __init__(self) -> None:
        self._asked: dict[Any, tuple[Job, float]] = {}

    @property
    def pending(self) -> list[Any]:
        """References of the questions."""
        return list(self._asked)

    def ask(self, job: Job, node_id: str) -> None:
        """Find out whether a node lives on which a job lost its worker."""
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._asked[_alive.options(scheduling_strategy=strategy).remote()] = job, time.monotonic()

    def collect(self, done: set[Any]) -> list[tuple[Job, bool]]:
        """Jobs whose question is answered, with whether the node died. No answer for a minute is a death."""
        now = time.monotonic()
        found = []
        for ref, (job, asked_s) in list(self._asked.items()):
            if ref in done:
                found.append((job, _has_died(ref)))
            elif now - asked_s > VERDICT_TIMEOUT_S:
                found.append((job, True))
            else:
                continue
            del self._asked[ref]
        return found


def _has_died(ref: Any) -> bool:
    try:
        ray.get(ref)
    except RayError:
        return True
    return False
