"""How this process comes to Ray: it joins a cluster, or starts Ray on this machine."""

import os
import socket
from typing import Any

import ray
from ray.exceptions import RayError

from uniform.errors import PipelineError

OBJECT_STORE_BYTES = 100 * 2**20
"""Nearly nothing goes through it; by default Ray would take 30 % of the memory."""


def join_ray(address: str | None, *, cores: int, instead: str) -> bool:
    """Connect this process to Ray, unless it is connected already.

    Args:
        address: of a running cluster; None starts Ray on this machine.
        cores: that Ray may give away there at least, whatever the machine has.
        instead: what to do where it does not work, for the error.
    Returns: True where the caller must part from Ray (`ray.shutdown`) when done.
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
        raise PipelineError(f"Ray did not start ({error}). {instead}") from error
    return True


def cluster_totals() -> dict[str, float]:
    """What the whole cluster has, by the names under which Ray is asked for it: num_cpus, num_gpus, memory (bytes)."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {
        "num_cpus": total.get("CPU", 0.0),
        "num_gpus": total.get("GPU", 0.0),
        "memory": total.get("memory", 0.0),
    }


def _require_listener(address: str) -> None:
    """Raises: OSError where nobody answers at host:port; Ray alone would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:  # else a word or a form that Ray resolves: auto, ray://...
        socket.create_connection((host, int(port)), timeout=10).close()
