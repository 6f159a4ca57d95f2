"""The check of each node before it gets work: package and Python version, run directory, free disk, clock.

The checking function goes to the node by value, so that it can report that the package is missing there.
"""

import contextlib
import platform
import secrets
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uniform import __version__
from uniform.atomic import TEMPORARY_PREFIX
from uniform.errors import PipelineError

CHECK_TIMEOUT_S = 60.0
LEAST_FREE_BYTES = 256 * 2**20
MOST_CLOCK_SKEW_S = 300.0


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node is and, where it cannot be used, why."""

    node_id: str
    host: str
    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0
    python: str = "?"
    version: str = "?"
    free_bytes: int | None = None
    problem: str | None = None
    """What is wrong and what to do; None for a node that can be used."""

    @property
    def name(self) -> str:
        """For people: host and the start of the node's id."""
        return f"{self.host} ({self.node_id[:8]})"


def _check_here(wanted: dict[str, Any]) -> dict[str, Any]:
    """In a process on the node. It imports everything inside, since it is sent without its module."""
    import platform as here
    import shutil
    import tempfile
    import time as clock
    from pathlib import Path as Place

    found: dict[str, Any] = {"python": here.python_version(), "time": clock.time()}
    found.update(version=None, import_error=None, folder=None)
    try:
        import pipelines.cluster.worker
        import uniform

        del pipelines
        found["version"] = uniform.__version__
    except BaseException as error:  # a broken installation may raise anything
        found["import_error"] = f"{type(error).__name__}: {error}"
    found["temporary"] = tempfile.gettempdir()
    free = [shutil.disk_usage(found["temporary"]).free]
    if wanted["folder"] is not None:
        try:
            seen = Place(wanted["nonce_file"]).read_text()
            Place(wanted["answer_file"]).write_text(seen)
            free.append(shutil.disk_usage(wanted["folder"]).free)
        except OSError as error:
            found["folder"] = f"{type(error).__name__}: {error}"
    found["free"] = min(free)
    return found


def _by_value() -> Any:
    """`_check_here` as a function that is pickled whole, not by the name of its module."""
    copy = types.FunctionType(_check_here.__code__, {"__builtins__": __builtins__}, "check_node")
    copy.__module__ = "__main__"
    return ray.remote(num_cpus=0, max_retries=0)(copy)


class NodeChecks:
    """Checks each node of the cluster once. A context manager: it removes its files from the run directory.

    Args:
        folder: the run directory that every node must see; None checks the rest.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._nonce = secrets.token_hex(16)
        self._stem = f"{TEMPORARY_PREFIX}node-check-{secrets.token_hex(4)}"
        self._remote = _by_value()
        self._pending: dict[Any, tuple[dict[str, Any], float]] = {}
        self.reports: dict[str, NodeReport] = {}
        """By node id."""

    def __enter__(self) -> "NodeChecks":
        if self._folder is not None:
            (self._folder / self._stem).write_text(self._nonce)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            for path in self._folder.glob(f"{self._stem}*"):
                path.unlink(missing_ok=True)

    @property
    def pending(self) -> list[Any]:
        """Object references of the checks under way."""
        return list(self._pending)

    @property
    def refused(self) -> list[str]:
        """Ids of the nodes that cannot be used."""
        return [node_id for node_id, report in self.reports.items() if report.problem]

    def look(self) -> list[dict[str, Any]]:
        """Start the check of nodes that are new. Returns the living nodes as Ray describes them."""
        alive = alive_nodes()
        known = {node["NodeID"] for node, _ in self._pending.values()} | set(self.reports)
        for node in alive:
            if node["NodeID"] not in known and node["Resources"].get("CPU", 0.0) > 0:
                self._start(node)
        return alive

    def _start(self, node: dict[str, Any]) -> None:
        folder = None if self._folder is None else str(self._folder)
        wanted = {
            "folder": folder,
            "nonce": self._nonce,
            "nonce_file": f"{folder}/{self._stem}",
            "answer_file": f"{folder}/{self._stem}-{node['NodeID'][:16]}",
        }
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ref = self._remote.options(scheduling_strategy=strategy).remote(wanted)
        self._pending[ref] = node, time.time()

    def collect(self) -> list[NodeReport]:
        """Reports that have come since the last call; a node that does not answer in time is refused."""
        if not self._pending:
            return []
        done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        late = [ref for ref, (_, began_s) in self._pending.items() if time.time() - began_s > CHECK_TIMEOUT_S]
        made = []
        for ref in dict.fromkeys([*done, *late]):
            node, began_s = self._pending.pop(ref)
            report = self._report(node, ref, began_s) if ref in done else _silent(node)
            if report is not None:
                self.reports[report.node_id] = report
                made.append(report)
        return made

    def _report(self, node: dict[str, Any], ref: Any, began_s: float) -> NodeReport | None:
        try:
            found = ray.get(ref)
        except RayError as error:
            if not _is_alive(node["NodeID"]):
                return None  # it died meanwhile, which is no fault of its installation
            text = str(error).strip().splitlines()
            return _described(node, problem=f"its check failed: {text[-1] if text else type(error).__name__}")
        return _described(
            node,
            python=found["python"],
            version=found["version"] or "none",
            free_bytes=found["free"],
            problem=self._problem(found, node["NodeID"], began_s),
        )

    def _problem(self, found: dict[str, Any], node_id: str, began_s: float) -> str | None:
        if found["import_error"]:
            return (
                f"the package cannot be imported there ({found['import_error']}); install uniform {__version__} on it"
            )
        if found["version"] != __version__:
            return f"it has version {found['version']} of the package, this is {__version__}; install the same version"
        if found["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
            return f"it has Python {found['python']}, this is {platform.python_version()}; install the same version"
        if found["folder"] or not self._answered(node_id):
            reason = found["folder"] or "what it writes there is not seen here"
            return (
                f"it does not share the run directory {self._folder} ({reason}); mount the same file system under the "
                f"same name on every node"
            )
        if found["free"] < LEAST_FREE_BYTES:
            return (
                f"it has {found['free'] / 2**20:.0f} MB free in {found['temporary']} or the run directory, at least "
                f"{LEAST_FREE_BYTES / 2**20:.0f} MB are needed; free some space"
            )
        skew_s = max(began_s - found["time"], found["time"] - time.time())
        if skew_s > MOST_CLOCK_SKEW_S:
            return f"its clock is {skew_s:.0f} s off; set it, for instance by NTP"
        return None

    def _answered(self, node_id: str) -> bool:
        if self._folder is None:
            return True
        with contextlib.suppress(OSError):
            return (self._folder / f"{self._stem}-{node_id[:16]}").read_text() == self._nonce
        return False


def check_nodes(folder: Path | None = None) -> list[NodeReport]:
    """Check every node of the cluster that this process is connected to.

    Raises: PipelineError where there is no node, or `folder` is not there on this machine.
    """
    if folder is not None and not folder.is_dir():
        raise PipelineError(
            f"{folder}: there is no such folder on this machine. Start the run first, or leave --out out."
        )
    with NodeChecks(folder) as checks:
        checks.look()
        if not checks.pending:
            raise PipelineError("no node of the cluster has a core for work; start a worker node, then try again")
        ends_s = time.time() + CHECK_TIMEOUT_S + 5.0
        while checks.pending and time.time() < ends_s:
            ray.wait(checks.pending, timeout=1.0)
            checks.collect()
        return sorted(checks.reports.values(), key=lambda report: report.name)


def alive_nodes() -> list[dict[str, Any]]:
    """The living nodes of the cluster, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id for node in alive_nodes())


def _silent(node: dict[str, Any]) -> NodeReport:
    return _described(node, problem=f"it did not answer within {CHECK_TIMEOUT_S:g} s; look at its load and its network")


def _described(node: dict[str, Any], **values: Any) -> NodeReport:
    resources = node["Resources"]
    return NodeReport(
        node_id=node["NodeID"],
        host=node["NodeManagerHostname"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=resources.get("memory", 0.0),
        **values,
    )
