"""Reads members of remote shards: threads fetch byte ranges into the cache in advance, and files are read from it."""

import logging
import os
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
from uniform.latents.fetching.byte_ranges import (
    ByteRanges,
    place_codes,
    place_codes_of_paths,
    range_path,
    wanted_members,
)
from uniform.latents.fetching.cache import Cache
from uniform.latents.shards.index import Places
from uniform.latents.shards.members import Shard, text_kind
from uniform.latents.shards.remote import RemoteFolder

logger = logging.getLogger(__name__)

FETCHES_AT_ONCE = 16
"""Download threads per process; a request to an object store mostly waits."""
READ_BYTES = 16 << 20
"""Bytes of a whole shard per request; a failed request is repeated."""
DOWNLOAD_ATTEMPTS = 2
"""Downloads of a byte range whose content does not have the checksums of the index."""
OPEN_ATTEMPTS = 3
"""Downloads of a byte range that another process removes before it is opened."""
CLOSING_S = 10.0
"""Seconds that requests in progress get to finish when the run ends."""


class FetchedMembers:
    """`Members` of one remote source. One thread uses it; downloads run in the threads of `Fetchers`."""

    def __init__(
        self, mixture: Mixture, number: int, ranges: Mapping[str, ByteRanges], cache: Cache, fetchers: "Fetchers"
    ) -> None:
        """
        Args:
            number: of the source in the mixture, whose folder is remote.
            ranges: byte ranges of that source (`ranges_of`).
        """
        source = mixture.sources[number]
        assert isinstance(source.index.folder, RemoteFolder)
        self.mixture, self.number, self.source, self.ranges = mixture, number, source, ranges
        self.folder: RemoteFolder = source.index.folder
        self.position = 0
        """Global number of the first sample that is not read yet; the loader moves it."""
        self._cache, self._fetchers = cache, fetchers
        self._coming: dict[Path, Future[None]] = {}
        self._whole: dict[Path, Shard] = {}
        members = wanted_members(source).values()
        codes = np.concatenate([place_codes(p.shard, p.offset)[p.present] for p in members])
        turn = np.argsort(codes)
        self._members = codes[turn]
        self._lengths = np.concatenate([p.length[p.present] for p in members])[turn]
        self._crcs = np.concatenate([p.crc32[p.present] for p in members])[turn]
        self._users = self._users_of_ranges()
        cache.add_folder(self.folder.local, self.next_use)

    def find(self, what: str, row: int, shard: int, offset: int) -> tuple[Shard, int]:
        """See `Members`. Waits for a byte range that is still being fetched."""
        held = self.ranges[what]
        start, length = int(held.start[row]), int(held.length[row])
        path = range_path(self.source.index, shard, start, length)
        if path in self._whole:
            return self._whole[path], offset - start
        for _ in range(OPEN_ATTEMPTS):
            coming = self._coming.pop(path, None)
            if coming is not None:
                coming.result()
            else:
                self._obtain(path, shard, start, length)
            opened = self._open(path, shard, length)
            if opened is not None:
                if start == 0:  # a whole shard stays open; there are too many ranges of single clips
                    self._whole[path] = opened
                return opened, offset - start
        raise RemoteError(
            f"{path}: removed {OPEN_ATTEMPTS} times before it could be read. The cache is too small for the processes "
            f"that share it: raise data.cache_bytes, or give each run a data.cache_folder of its own."
        )

    def prefetch(self, what: str, places: Places, rows: npt.NDArray[np.int64]) -> None:
        """See `Members`. Byte ranges are fetched in the order in which they are announced."""
        held = self.ranges[what]
        for shard, start, length in zip(
            held.shard[rows].tolist(), held.start[rows].tolist(), held.length[rows].tolist(), strict=True
        ):
            path = range_path(self.source.index, shard, start, length)
            if path not in self._coming and path not in self._whole and not path.exists():
                self._coming[path] = self._fetchers.submit(partial(self._obtain, path, shard, start, length))

    def close(self) -> None:
        """Stop fetching."""
        self._fetchers.close()

    def next_use(self, paths: Sequence[str]) -> npt.NDArray[np.float64]:
        """For each path below the folder's place in the cache, the global position that needs it next, or infinity."""
        starts, rows, captions = self._users
        wanted = place_codes_of_paths(self.source.index, paths)
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
        """Sorted place code of each byte range; a clip that it serves; its caption set's number, -1 for latents."""
        numbers = {text_kind(name): number for number, name in enumerate(self.source.captions)}
        columns = []
        for kind, held in self.ranges.items():
            rows = np.flatnonzero(held.shard >= 0)
            caption = np.full_like(rows, numbers.get(kind, -1))
            columns.append(np.stack([place_codes(held.shard, held.start)[rows], rows, caption]))
        starts, rows, captions = np.unique(np.concatenate(columns, axis=1), axis=1)
        return starts, rows, captions

    def _open(self, path: Path, shard: int, length: int) -> Shard | None:
        """The open byte range, or None where it was removed or is incomplete."""
        try:
            if path.stat().st_size == length:
                return Shard(path, f"{self.folder}/{self.source.index.shards[shard]}")
            path.unlink()  # cut by another program
        except FileNotFoundError:
            pass
        except ShardError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        return None

    def _obtain(self, path: Path, shard: int, start: int, length: int) -> None:
        self._cache.obtain(path, length, partial(self._fill, shard, start, length))

    def _fill(self, shard: int, start: int, length: int, file: IO[bytes]) -> None:
        """Download a byte range into an open file, and compare its members with the index."""
        name, stop = self.source.index.shards[shard], start + length
        for _ in range(DOWNLOAD_ATTEMPTS):
            file.seek(0)
            for begin in range(start, stop, READ_BYTES):
                file.write(self.folder.read(name, begin, min(begin + READ_BYTES, stop)))
            file.flush()
            damaged = self._damaged(shard, start, length, file)
            if not damaged:
                return
            self.folder.require_unchanged(name)
            logger.warning(
                "%s/%s: %d members, the first at byte %d, do not have the checksums of the index",
                *(self.folder, name, len(damaged), damaged[0]),
            )
        # The remote copy is damaged. The store that reads it names the clip and counts it against data.max_corrupt.

    def _damaged(self, shard: int, start: int, length: int, file: IO[bytes]) -> list[int]:
        """Offsets in the shard of the members in a byte range whose bytes differ from the index's checksums."""
        edges = place_codes(np.array([shard, shard], np.int32), np.array([start, start + length]))
        low, high = np.searchsorted(self._members, edges).tolist()
        found = []
        for code, size, crc in zip(
            self._members[low:high].tolist(),
            self._lengths[low:high].tolist(),
            self._crcs[low:high].tolist(),
            strict=True,
        ):
            begin = code - int(edges[0])
            if zlib.crc32(os.pread(file.fileno(), size, begin)) != crc:
                found.append(start + begin)
        return found


class Fetchers:
    """Daemon threads that run submitted tasks in order."""

    def __init__(self, threads: int = FETCHES_AT_ONCE) -> None:
        self._queue: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        self._closed = Event()
        self._threads = [Thread(target=self._run, name="latents-fetch", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None]) -> Future[None]:
        """Queue `task`; the future holds the exception that it raises."""
        future: Future[None] = Future()
        self._queue.put((future, task))
        return future

    def close(self) -> None:
        """Drop waiting tasks, and wait `CLOSING_S` seconds for running ones."""
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
