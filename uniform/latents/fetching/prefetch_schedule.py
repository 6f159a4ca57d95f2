"""The prefetch schedule: which steps are fetched in advance, as many as the cache can hold."""

from collections.abc import Callable, Sequence

import numpy as np

from uniform.errors import ConfigError
from uniform.latents.batches.mixture import Mixture, Plan
from uniform.latents.fetching.byte_ranges import clip_bytes
from uniform.latents.fetching.residency import DiskStore, Store

STEPS_IN_CACHE = 4
"""Global batches that the cache must hold at least: those being read, those announced, and a margin for removal."""


class PrefetchScheduler:
    """Prefetches the clips of the next steps from remote sources; does nothing for local or resident ones."""

    def __init__(
        self, mixture: Mixture, stores: Sequence[Store], global_batch: int, fetch_ahead: int, cache_bytes: int
    ) -> None:
        """Raises: ConfigError where the cache cannot hold `STEPS_IN_CACHE` global batches."""
        self._stores = {n: store for n, store in enumerate(stores) if isinstance(store, DiskStore) and store.remote}
        self._global_batch = global_batch
        self._announced = -1
        if not self._stores:
            return
        step_bytes = global_batch * max(clip_bytes(mixture.sources[number]) for number in self._stores)
        if cache_bytes < STEPS_IN_CACHE * step_bytes:
            raise ConfigError(
                f"data.cache_bytes is {cache_bytes:,}; a global batch of {global_batch} remote clips takes up to "
                f"{step_bytes:,} bytes, and the cache must hold {STEPS_IN_CACHE} of them: set it to "
                f"{STEPS_IN_CACHE * step_bytes:,} or more"
            )
        self._ahead = min(fetch_ahead, cache_bytes // (2 * step_bytes))

    def at(self, step: int, share: Callable[[int], Plan]) -> None:
        """Prefetch the clips of `step` and of the steps after it.

        Args:
            share: what this process reads at a step.
        """
        if not self._stores:
            return
        for store in self._stores.values():
            if store.remote is not None:
                store.remote.position = step * self._global_batch
        if not step <= self._announced <= step + self._ahead:
            self._announced = step - 1  # the first step, or a jump
        while self._announced < step + self._ahead:
            self._announced += 1
            plan = share(self._announced)
            for number, store in self._stores.items():
                mine = np.flatnonzero(plan.source == number)
                store.prefetch(plan.clip[mine], plan.caption[mine])

    def close(self) -> None:
        """Stop fetching."""
        for store in self._stores.values():
            if store.remote is not None:
                store.remote.close()
