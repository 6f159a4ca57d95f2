"""Connect this process to Ray: join a cluster, or start Ray on this machine."""

import os
import socket
from typing import Any

import ray
from ray.exceptions import RayError

from uniform.errors import PipelineError

OBJECT_STORE_BYTES = 100 * 2**20
"""Almost nothing goes through the object store; by default Ray would reserve 30 % of the memory for it."""


def join_ray(address: str | None, *, cores: int, fix: str) -> bool:
    """Connect this process to Ray, unless it is connected already.

    Args:
        address: of a running cluster; None starts Ray on this machine.
        cores: the least that Ray may assign there, whatever the machine has.
        fix: what the user can do where it fails, for the error.
    Returns: True where the caller must disconnect from Ray (`ray.shutdown`) at the end.
    Raises: PipelineError.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is not None:
            _require_listener(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, cores),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise PipelineError(f"Ray did not start ({error}). {fix}") from error
    return True


def cluster_totals() -> dict[str, float]:
    """Resources of the whole cluster, by the names of Ray's options: num_cpus, num_gpus, memory (bytes)."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {
        "num_cpus": total.get("CPU", 0.0),
        "num_gpus": total.get("GPU", 0.0),
        "memory": total.get("memory", 0.0),
    }


def _require_listener(address: str) -> None:
    """Raises: OSError where nothing listens at host:port; Ray alone would try for 15 minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:  # else a name that Ray resolves: auto, ray://...
        socket.create_connection((host, int(port)), timeout=10).close()
