"""Connect this process to Ray: join a cluster, or start Ray on this machine."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from uniform.errors import PipelineError

OBJECT_STORE_BYTES = 100 * 2**20
"""Almost nothing goes through the object store; by default Ray would reserve 30 % of the memory for it."""
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105 - a path, no token
"""Where Ray keeps the token of a cluster by default."""


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
        if _is_token_error(error):
            raise PipelineError(
                f"the Ray cluster at {address} wants a token that this process does not have or that is another one. "
                f"Copy the token of the head node ({TOKEN_FILE} there) and name it here: RAY_AUTH_MODE=token with "
                f"RAY_AUTH_TOKEN_PATH=FILE, or RAY_AUTH_TOKEN=TOKEN"
            ) from error
        raise PipelineError(f"Ray did not start ({_first_line(error)}). {fix}") from error
    return True


@contextlib.contextmanager
def cluster_connection(address: str, *, fix: str) -> Iterator[None]:
    """Inside the block, this process is connected to a cluster. Raises PipelineError where that fails."""
    started = join_ray(address, cores=1, fix=fix)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _is_token_error(error: BaseException) -> bool:
    """Whether the cluster refused the token; some versions of Ray only say so in the text."""
    text = str(error).lower()
    return isinstance(error, AuthenticationError) or "unauthenticated" in text or "auth token" in text


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
