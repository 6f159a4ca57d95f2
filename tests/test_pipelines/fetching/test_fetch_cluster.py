"""On a cluster one actor paces the hosts for all workers; what it knows outlives it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.hosts import HostPolicy
from pipelines.run.job import new_run
from pipelines.run.pipeline import LogListener, run_pipeline
from tests.support.hostile_server import HostileServer, hostile_server
from tests.test_pipelines.fetching.test_fetch_stage import BURST, RATE_HZ, RECIPE, write_run

pytestmark = pytest.mark.ray
SLOW = HostPolicy(requests_per_hour=1.0, burst=1, jitter=0.0, max_wait_s=1e9, daily_requests=4)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_actor(ray_address: str) -> Iterator[None]:
    """A cluster without the actor that holds the states of hosts, before and after."""
    from pipelines.cluster.host_states import release_host_states_actor

    release_host_states_actor()
    yield
    release_host_states_actor()


def actor_lives() -> bool:
    import ray

    from pipelines.cluster.host_states import HOST_STATES_ACTOR

    return any(actor["name"] == HOST_STATES_ACTOR for actor in ray.util.list_named_actors(all_namespaces=True))


def kill_actor() -> None:
    """End its process, as a crash would."""
    import ray

    from pipelines.cluster.host_states import HOST_STATES_ACTOR

    actor = ray.get_actor(HOST_STATES_ACTOR, namespace=HOST_STATES_ACTOR)
    os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def test_runs_with_folders_of_their_own_share_one_bucket(tmp_path: Path) -> None:
    from pipelines.cluster.host_states import ClusterHostStates

    waits = [ClusterHostStates(tmp_path / run).reserve("h.example", SLOW, 0.0) for run in ("a", "b", "a")]

    assert waits == pytest.approx([0.0, 3_600.0, 7_200.0], abs=300)


@pytest.mark.parametrize("forever", [False, True], ids=["restarted", "ended"])
def test_budget_and_cool_down_outlive_the_actor(tmp_path: Path, forever: bool) -> None:
    from pipelines.cluster.host_states import ClusterHostStates, release_host_states_actor

    states = ClusterHostStates(tmp_path)
    for _ in range(4):
        states.reserve("spent.example", SLOW, 0.0)
    states.learn("angry.example", SLOW, "HTTP 429", 7_200.0)

    if forever:
        release_host_states_actor()
    else:
        kill_actor()

    assert states.is_cooling_down("angry.example")
    with pytest.raises(FetchError, match="daily_budget"):
        states.reserve("spent.example", SLOW, 0.0)


def test_an_actor_that_dies_again_and_again_costs_no_answer(tmp_path: Path) -> None:
    from pipelines.cluster.host_states import ClusterHostStates

    states = ClusterHostStates(tmp_path)
    states.is_cooling_down("h.example")
    for turn in range(3):
        kill_actor()
        assert states.reserve("h.example", SLOW, 0.0) == pytest.approx(3_600.0 * turn, abs=300)


def test_workers_on_ray_ask_the_actor_and_the_server_sees_one_bucket(server: HostileServer, tmp_path: Path) -> None:
    from pipelines.cluster.backend import RayBackend

    write_run(tmp_path, server, 60)
    (tmp_path / "fetch.toml").write_text(RECIPE.replace("unit_clips = 8", "unit_clips = 4"))
    run = new_run([tmp_path / "web.toml"], tmp_path / "fetch.toml", tmp_path / "run")
    with RayBackend(workers=3) as engine:
        run_pipeline(run, engine, LogListener(), until="fetch_media")
        assert actor_lives()

    assert len(server.times_s) > 60
    for span_s in (0.1, 0.5, 1.0, 2.0):
        assert server.fastest(span_s) <= BURST + RATE_HZ * span_s + 3
    assert not FileHostStates(tmp_path / "run" / "sources" / "pace").is_cooling_down("127.0.0.1")
    deadline = time.monotonic() + 10
    while actor_lives():  # the run takes its actor along
        assert time.monotonic() < deadline
        time.sleep(0.05)
