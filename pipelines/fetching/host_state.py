"""The book of hosts as files, one page per host, locked while it is written: for all processes that see the folder.

A lock holds on one machine. Where there are several, one process keeps the book for all of them (`HostStatesServer`).
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.fetching.base import FetchError
from pipelines.fetching.rate_limit import HostState, learn, reserve
from pipelines.hosts import HostPolicy

PAGE_BYTES = 2_048
"""More than any page needs, with the longest host name and reason in their widest spelling."""
T = TypeVar("T")


class FileHostStates:
    """See `pipelines.fetching.rate_limit.HostStates`.

    Args:
        folder: holds the pages; made where it is missing.
        known: what the caller's other books know of the hosts: each page takes it over, and adds to it.
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
        """Write down how the host answered; whether its breaker opened."""
        return self._update(host, lambda state, now: learn(state, policy, refusal, retry_after_s, now))

    def _update(self, host: str, change: Callable[[HostState, float], T]) -> T:
        """Apply `change` to the host's page while nobody else may; what raises changes nothing."""
        page = self._folder / f"{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"
        handle = os.open(page, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(handle, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = _state(file.read())
            if self._known is not None and host in self._known:
                state.meet(self._known[host])
            result = change(state, self._clock())
            text = json.dumps({"host": host, **dataclasses.asdict(state)}, ensure_ascii=False)
            file.seek(0)
            file.write(text.encode().ljust(PAGE_BYTES))  # always as long: cutting a file costs more than all the rest
        if self._known is not None:
            self._known[host] = state
        return result


class HostStatesServer:
    """Keeps the books of several folders as one: of runs that share an address to the world, but no folder.

    It may die at any time: all it knows is in the folders.
    """

    def __init__(self) -> None:
        self._known: dict[str, HostState] = {}

    def ask(self, folder: Path, question: str, *args: Any) -> float | FetchError:
        """The answer of a method of the folder's book. That the host must not be asked now comes back as a value."""
        try:
            answer: float = getattr(FileHostStates(folder, known=self._known), question)(*args)
        except FetchError as error:
            return error
        return answer


def _state(content: bytes) -> HostState:
    """The page's content; a fresh state for an empty page, or for one that a power cut left half written."""
    names = [field.name for field in dataclasses.fields(HostState)]
    try:
        found = json.loads(content)
        return HostState(**{name: found[name] for name in names if name in found})
    except (ValueError, TypeError):
        return HostState()
