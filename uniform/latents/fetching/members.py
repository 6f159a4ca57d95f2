"""Members of remote shards, fetched into the cache ahead of need by threads, and mapped from there."""

import logging
import mmap
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import IO

import numpy as np
import numpy.typing as npt

from uniform.errors import RemoteError, ShardError
from uniform.latents.batches.mixture import Mixture
from uniform.latents.fetching.byte_ranges import ByteRanges, range_path, wanted_members, words, words_of_paths
from uniform.latents.fetching.cache import Cache
from uniform.latents.shards.index import Places
from uniform.latents.shards.members import Shard, text_kind
from uniform.latents.shards.remote import RemoteFolder

logger = logging.getLogger(__name__)

FETCHES_AT_ONCE = 16
"""Per process; a request to an object store mostly waits."""
READ_BYTES = 16 << 20
"""Of a whole shard that are asked for at once, and again after a failure."""
ARRIVALS = 2
"""How often a piece is fetched whose bytes have not the checksums of the index."""
LOOKS = 3
"""How often a piece is fetched that another process removes before it could be mapped."""
CLOSING_S = 10.0
"""What a request in hand is given to end when the run does."""


class FetchedMembers:
    """`Members` of one remote source. Not for several threads at once; its fetchers are apart."""

    def __init__(
        self, mixture: Mixture, number: int, pieces: Mapping[str, ByteRanges], cache: Cache, fetchers: "Fetchers"
    ) -> None:
        """
        Args:
            number: of the source in the mixture, whose folder is remote.
            pieces: of that source (`ranges_of`).
        """
        source = mixture.sources[number]
        assert isinstance(source.index.folder, RemoteFolder)
        self.mixture, self.number, self.source, self.pieces = mixture, number, source, pieces
        self.folder: RemoteFolder = source.index.folder
        self.position = 0
        """Global number of the first sample that is not read yet; the loader moves it."""
        self._cache, self._fetchers = cache, fetchers
        self._coming: dict[Path, Future[None]] = {}
        self._whole: dict[Path, Shard] = {}
        members = wanted_members(source).values()
        words_of_members = np.concatenate([words(p.shard, p.offset)[p.present] for p in members])
        turn = np.argsort(words_of_members)
        self._members = words_of_members[turn]
        self._lengths = np.concatenate([p.length[p.present] for p in members])[turn]
        self._crcs = np.concatenate([p.crc32[p.present] for p in members])[turn]
        self._users = self._users_of_ranges()
        cache.knows(self.folder.local, self.next_use)

    def find(self, what: str, row: int, shard: int, offset: int) -> tuple[Shard, int]:
        """See `Members`. Waits for a piece that has not come yet."""
        held = self.pieces[what]
        start, length = int(held.start[row]), int(held.length[row])
        path = range_path(self.source.index, shard, start, length)
        if path in self._whole:
            return self._whole[path], offset - start
        for _ in range(LOOKS):
            coming = self._coming.pop(path, None)
            if coming is not None:
                coming.result()
            else:
                self._obtain(path, shard, start, length)
            mapped = self._map(path, shard, length)
            if mapped is not None:
                if start == 0:  # a whole shard stays mapped; pieces of clips are too many for that
                    self._whole[path] = mapped
                return mapped, offset - start
        raise RemoteError(
            f"{path}: removed {LOOKS} times before it could be read. The cache is too small for what the processes "
            f"that share it need at once: raise data.cache_bytes, or give each run a data.cache_folder of its own."
        )

    def prefetch(self, what: str, places: Places, rows: npt.NDArray[np.int64]) -> None:
        """See `Members`. ByteRanges come in the order in which they are announced."""
        held = self.pieces[what]
        for shard, start, length in zip(
            held.shard[rows].tolist(), held.start[rows].tolist(), held.length[rows].tolist(), strict=True
        ):
            path = range_path(self.source.index, shard, start, length)
            if path not in self._coming and path not in self._whole and not path.exists():
                self._coming[path] = self._fetchers.submit(partial(self._obtain, path, shard, start, length))

    def close(self) -> None:
        """Fetch no more."""
        self._fetchers.close()

    def next_use(self, paths: Sequence[str]) -> npt.NDArray[np.float64]:
        """For each path below the folder's place in the cache, the global position that needs it next, or infinity."""
        starts, rows, captions = self._users
        wanted = words_of_paths(self.source.index, paths)
        low, high = np.searchsorted(starts, wanted, "left"), np.searchsorted(starts, wanted, "right")
        counts = high - low
        found = np.full(len(paths), np.inf)
        used = np.flatnonzero(counts)
        if len(used) == 0:
            return found
        begins = np.cumsum(counts[used]) - counts[used]
        users = np.arange(counts.sum()) - np.repeat(begins - low[used], counts[used])
        positions = self.mixture.next_use(self.number, rows[users], self.position)
        needed = positions.astype(np.float64)
        if len(self.source.captions) > 1:  # a clip's next sample may draw another of its texts
            drawn = self.mixture.plan(positions).caption
            needed[(captions[users] >= 0) & (captions[users] != drawn)] = np.inf
        found[used] = np.minimum.reduceat(needed, begins)
        return found

    def _users_of_ranges(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First place of each piece, sorted; a clip that it is for; the number of its caption set, -1 for latents."""
        numbers = {text_kind(name): number for number, name in enumerate(self.source.captions)}
        columns = []
        for kind, held in self.pieces.items():
            rows = np.flatnonzero(held.shard >= 0)
            caption = np.full_like(rows, numbers.get(kind, -1))
            columns.append(np.stack([words(held.shard, held.start)[rows], rows, caption]))
        starts, rows, captions = np.unique(np.concatenate(columns, axis=1), axis=1)
        return starts, rows, captions

    def _map(self, path: Path, shard: int, length: int) -> Shard | None:
        """The piece, or None where it was removed or is not whole."""
        try:
            if path.stat().st_size == length:
                return Shard(path, f"{self.folder}/{self.source.index.shards[shard]}")
            path.unlink()  # cut by other hands than ours
        except FileNotFoundError:
            pass
        except ShardError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        return None

    def _obtain(self, path: Path, shard: int, start: int, length: int) -> None:
        self._cache.obtain(path, length, partial(self._fill, shard, start, length))

    def _fill(self, shard: int, start: int, length: int, file: IO[bytes]) -> None:
        """Write a piece into an open file, and compare its members with the index."""
        name, stop = self.source.index.shards[shard], start + length
        for _ in range(ARRIVALS):
            file.seek(0)
            for begin in range(start, stop, READ_BYTES):
                file.write(self.folder.read(name, begin, min(begin + READ_BYTES, stop)))
            file.flush()
            damaged = self._damaged(shard, start, length, file)
            if not damaged:
                return
            self.folder.require_unchanged(name)
            logger.warning(
                "%s/%s: %d members, the first at byte %d, have not the checksums of the index",
                *(self.folder, name, len(damaged), damaged[0]),
            )
        # It is damaged there. The store that reads it names the clip, and knows how many such clips the run bears.

    def _damaged(self, shard: int, start: int, length: int, file: IO[bytes]) -> list[int]:
        """Offsets in the shard of the members in a piece whose bytes differ from the index's checksums."""
        edges = words(np.array([shard, shard], np.int32), np.array([start, start + length]))
        low, high = np.searchsorted(self._members, edges).tolist()
        found = []
        with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            for word, size, crc in zip(
                self._members[low:high].tolist(),
                self._lengths[low:high].tolist(),
                self._crcs[low:high].tolist(),
                strict=True,
            ):
                begin = word - int(edges[0])
                if zlib.crc32(view[begin : begin + size]) != crc:
                    found.append(start + begin)
        return found


class Fetchers:
    """Daemon threads that run what they are given, in that order."""

    def __init__(self, threads: int = FETCHES_AT_ONCE) -> None:
        self._queue: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        self._closed = Event()
        self._threads = [Thread(target=self._run, name="latents-fetch", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None]) -> Future[None]:
        """Have `task` run; the future gives what it raises."""
        future: Future[None] = Future()
        self._queue.put((future, task))
        return future

    def close(self) -> None:
        """Drop what waits, and give what is in hand `CLOSING_S` seconds to end."""
        self._closed.set()
        for _ in self._threads:
            self._queue.put(None)
        end = time.monotonic() + CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, task = item
            if self._closed.is_set():
                future.cancel()
                continue
            try:
                task()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
