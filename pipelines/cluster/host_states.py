"""The states of hosts for all workers of a cluster: one actor holds them, and writes them to the run directory."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import HostStatesServer
from pipelines.hosts import HostPolicy
from uniform.errors import PipelineError

HOST_STATES_ACTOR = "uniform-hosts"
"""Name and namespace of the actor that holds the states of hosts, one for the whole cluster."""
HOST_STATES_TIMEOUT_S = (0.1, 0.5, 2.0, 5.0)

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
