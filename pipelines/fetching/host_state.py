"""The states of hosts as files, one per host, locked while it changes: for all processes that see the folder.

A file lock holds on one machine. On several, one process keeps the states for all of them (`HostStatesServer`).
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.fetching.base import FetchError
from pipelines.fetching.rate_limit import HostState, learn, reserve
from pipelines.hosts import HostPolicy
from uniform.untrusted_json import read_untrusted_json

FILE_BYTES = 2_048
"""More than any file needs, with the longest host name and reason in their longest encoding."""
MAX_COUNT = 1_000_000_000
T = TypeVar("T")


class FileHostStates:
    """See `pipelines.hosts.HostStates`.

    Args:
        folder: holds the files; made where it is missing.
        known: states that the caller has from other folders: each file is merged with them, and they with it.
        clock: seconds since 1970; for tests.
    """

    def __init__(
        self, folder: Path, *, known: dict[str, HostState] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._known, self._clock = folder, known, clock

    def reserve(self, host: str, policy: HostPolicy, chance: float) -> float:
        """Take a turn; the seconds to wait for it. Raises FetchError: host_paused, daily_budget, quiet_hours."""
        return self._update(host, lambda state, now: reserve(state, policy, host, now, chance))

    def is_cooling_down(self, host: str) -> bool:
        """Whether the host is not to be asked at this moment."""
        return self._update(host, lambda state, now: state.blocked_until > now)

    def learn(self, host: str, policy: HostPolicy, refusal: str | None, retry_after_s: float | None) -> bool:
        """Record how the host answered; True where its circuit breaker opens."""
        return self._update(host, lambda state, now: learn(state, policy, refusal, retry_after_s, now))

    def _update(self, host: str, change: Callable[[HostState, float], T]) -> T:
        """Apply `change` to the host's file under its lock; a `change` that raises changes nothing."""
        path = self._folder / f"{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.json"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(handle, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = self._clock()
            state = _state(file.read(2 * FILE_BYTES)).sane(now)
            if self._known is not None and host in self._known:
                state.merge(self._known[host].sane(now))
            result = change(state, now)
            state.written_at = now
            text = json.dumps({"host": host[:255], **dataclasses.asdict(state)}, ensure_ascii=False)
            file.seek(0)
            # Always of the same length: cutting a file costs more than all the rest.
            file.write(text.encode("utf-8", "replace").ljust(FILE_BYTES))
        if self._known is not None:
            self._known[host] = state
        return result


class HostStatesServer:
    """Keeps the states of several folders as one, for runs that share an internet address but no folder.

    It can die at any time: everything is in the folders.
    """

    def __init__(self) -> None:
        self._known: dict[str, HostState] = {}

    def ask(self, folder: Path, method: str, *args: Any) -> float | FetchError:
        """The result of a method of the folder's states. A FetchError is returned, not raised."""
        try:
            answer: float = getattr(FileHostStates(folder, known=self._known), method)(*args)
        except FetchError as error:
            return error
        return answer


def _state(content: bytes) -> HostState:
    """The state in a file; a new one for an empty file, and for one that a power cut or a stranger left damaged."""
    try:
        found = read_untrusted_json(content, max_bytes=2 * FILE_BYTES)
    except ValueError:
        return HostState()
    if not isinstance(found, dict):
        return HostState()
    state = HostState()
    for field in dataclasses.fields(HostState):
        value = found.get(field.name)
        default = getattr(state, field.name)
        if isinstance(default, str):
            if isinstance(value, str):
                setattr(state, field.name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            setattr(state, field.name, min(int(value), MAX_COUNT) if isinstance(default, int) else float(value))
    return state
