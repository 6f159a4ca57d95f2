"""Batches that shrink when memory runs out, so that a run continues instead of stopping."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from uniform.codecs.base import Shrinkable

A = TypeVar("A")
B = TypeVar("B")

_logger = logging.getLogger(__name__)


class MemoryBatches:
    """Runs work on items in batches of `size`, which is halved for good whenever a batch does not fit.

    Args:
        size: items per batch at first.
        codecs: those that are `Shrinkable` halve their own batches once a single item does not fit.
    """

    def __init__(self, size: int, codecs: Sequence[object] = ()) -> None:
        self.size = size
        self._codecs = [codec for codec in codecs if isinstance(codec, Shrinkable)]

    def run(self, work: Callable[[Sequence[A]], Sequence[B]], items: Sequence[A]) -> list[B | None]:
        """Run `work(batch)` on batches of the items; one result per item, None where an item does not fit alone."""
        results: list[B | None] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            done = self._attempt(work, batch)
            if done is not None:
                results.extend(done)
            elif not self._shrink():
                results.append(None)
        return results

    def _attempt(self, work: Callable[[Sequence[A]], Sequence[B]], batch: Sequence[A]) -> Sequence[B] | None:
        try:
            return work(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _logger.warning("a batch of %d does not fit into memory: %s", len(batch), str(error).splitlines()[0])
        # Outside the handler, since the traceback holds the tensors of the failed batch.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _shrink(self) -> bool:
        if self.size > 1:
            self.size //= 2
            _logger.warning("continuing with batches of %d", self.size)
            return True
        shrunk = [codec.halve_batches() for codec in self._codecs]
        return any(shrunk)


def is_out_of_memory(error: BaseException) -> bool:
    """True for every error by which Python and torch report that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in message or "out of memory" in message)
