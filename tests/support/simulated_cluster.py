"""A Ray cluster of several raylets on this machine, for tests and benchmarks, and stages that sleep.

Each node is a raylet of its own, with as many cores and accelerators as it claims. A node may be broken on purpose by a
`sitecustomize` that its workers load first.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from tests.support.paths import ROOT
from uniform.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Sleep:
    """Sleeps for each clip, and stores some bytes."""

    needs = ()
    reads = ()

    name: str
    pause_s: float = 0.1
    cpus: float = 1.0
    gpus: float = 0.0
    device: str = "cpu"
    waits: bool = False
    size: int = 200
    seen: str | None = None
    """Folder that gets one file per worker process that opened the stage."""

    @property
    def gives(self) -> tuple[str, ...]:
        """One field."""
        return (f"bin-{self.name}",)

    @property
    def store(self) -> Store:
        """A tar."""
        return Store("tar", f"{self.name}-made")

    @property
    def resources(self) -> Resources:
        """What the options say."""
        return Resources(cpus=self.cpus, gpus=self.gpus, memory_gb=0.05, waits=self.waits)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The size."""
        return {"size": self.size}

    def open(self, context: Context) -> Work:
        """Sleep."""
        if self.seen is not None:
            mark = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            (Path(self.seen) / f"{self.name}-{os.getpid()}").write_text(mark)
        return lambda clips: map(self._one, clips)

    def _one(self, clip: Clip) -> Clip:
        time.sleep(self.pause_s)
        return clip.with_fields(**{f"bin-{self.name}": clip.row.clip_id.encode() * self.size})


@dataclass
class SimulatedCluster:
    """A head without cores, and nodes that come and go."""

    cluster: Any
    address: str
    nodes: list[Any] = field(default_factory=list)

    def add(self, cpus: float = 1, gpus: float = 0, environment: Mapping[str, str] | None = None) -> Any:
        """A node joins."""
        options: dict[str, Any] = {"env_vars": dict(environment)} if environment else {}
        node = self.cluster.add_node(
            num_cpus=cpus, num_gpus=gpus, object_store_memory=80 * 2**20, memory=4 * 2**30, **options
        )
        self.nodes.append(node)
        return node

    def kill(self, node: Any) -> None:
        """A node dies without a word."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def simulated_cluster(*nodes: tuple[float, float]) -> Iterator[SimulatedCluster]:
    """A cluster with these nodes: (cores, accelerators) each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    before = ray.is_initialized()
    if before:
        raise AssertionError("this process is connected to another Ray")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20},
    )
    made = SimulatedCluster(cluster, cluster.address)
    try:
        for cpus, gpus in nodes:
            made.add(cpus, gpus)
        yield made
    finally:
        ray.shutdown()
        cluster.shutdown()


def broken_environment(folder: Path, code: str) -> dict[str, str]:
    """Environment of a node whose workers run `code` before anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def in_own_session(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A driver in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def raylet_pid(node: Any) -> int:
    """Process id of a node's raylet."""
    found: int = node.all_processes["raylet"][0].process.pid
    return found


def kill_raylet(node: Any) -> None:
    """End a raylet as a power cut does."""
    os.kill(raylet_pid(node), signal.SIGKILL)
