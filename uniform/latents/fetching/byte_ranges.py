"""Chooses the byte ranges in which a remote shard is fetched: the whole shard, or the members of one clip.

The order is a random permutation of all clips: a batch of 32 clips lies in up to 32 shards, and each shard is read
until the end of the epoch. Where the cache holds every wanted shard, a range is a whole shard: few requests, and later
epochs read local files. Where it does not, a shard would be removed before its next clip is read; then a range is the
latents of one clip, or one of its texts. N clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniform.latents.batches.mixture import Mixture, Source
from uniform.latents.shards.index import Index, Longs, Places
from uniform.latents.shards.members import std_kind, text_kind
from uniform.latents.shards.remote import RemoteFolder

RANGES_SUFFIX = ".pieces"
"""End of the name of a folder with byte ranges of a shard; caches of earlier versions have it."""
CLOSE_BYTES = 64 << 10
"""Arrays of one clip are fetched as one range where no more than this lies between them."""
WORTHWHILE_SHARE = 0.5
"""Whole shards are fetched where at least this share of their bytes is wanted."""
_OFFSET_BITS = 44
"""Bits of the offset in a place code; the bits above are the shard number: 524,288 shards of up to 16 TiB."""


@dataclass(frozen=True)
class ByteRanges:
    """The byte range that holds one kind of member of each clip: three arrays of (N,)."""

    shard: npt.NDArray[np.int32]
    """Number in `Index.shards`; -1 where the clip has no such member."""
    start: Longs
    """First byte of the range in the shard."""
    length: Longs
    """Bytes of the range."""


@dataclass(frozen=True)
class RemoteBytes:
    """Bytes that the remote sources of a mixture download and cache."""

    wanted_bytes: int
    """Bytes of all ranges; each is read once per epoch."""
    cached_bytes: int
    """Bytes of them that are in the cache now."""
    cache_bytes: int
    whole_shards: bool
    """True where whole shards are fetched, each once; else single clips, again in each epoch unless cached."""


def wanted_members(source: Source) -> dict[str, Places]:
    """The members that a source's samples can need, by kind."""
    index = source.index
    places = {"video": index.video, "audio": index.audio}
    places |= {std_kind(name): found for name, found in index.stdev.items()}
    return places | {text_kind(name): index.texts[name] for name in source.captions}


def whole_shard_ranges(index: Index, members: Mapping[str, Places]) -> dict[str, ByteRanges]:
    """The byte range of each member is its whole shard. `index` is of a remote folder."""
    sizes = shard_sizes(index)
    return {
        kind: ByteRanges(places.shard, np.zeros(len(index), np.int64), np.where(places.present, sizes[places.shard], 0))
        for kind, places in members.items()
    }


def clip_ranges(members: Mapping[str, Places]) -> dict[str, ByteRanges]:
    """One range for each member; a clip's video and audio (or their stds) share one where they are close."""
    found = {kind: ByteRanges(places.shard, places.offset, places.length) for kind, places in members.items()}
    for one, two in (("video", "audio"), (std_kind("video"), std_kind("audio"))):
        if one in members and two in members:
            joined = _joined(members[one], members[two])
            found[one], found[two] = _where(joined, found[one]), _where(joined, found[two])
    return found


def _joined(one: Places, two: Places) -> tuple[npt.NDArray[np.bool_], Longs, Longs]:
    """Where two members of a clip are close; first byte and length of what holds both."""
    start = np.minimum(one.offset, two.offset)
    length = np.maximum(one.offset + one.length, two.offset + two.length) - start
    return (one.shard == two.shard) & (length <= one.length + two.length + CLOSE_BYTES), start, length


def _where(joined: tuple[npt.NDArray[np.bool_], Longs, Longs], alone: ByteRanges) -> ByteRanges:
    close, start, length = joined
    return ByteRanges(alone.shard, np.where(close, start, alone.start), np.where(close, length, alone.length))


def shard_sizes(index: Index) -> Longs:
    """Bytes of each of `Index.shards` of a remote folder."""
    folder = index.folder
    assert isinstance(folder, RemoteFolder)
    return np.array([folder.size(name) for name in index.shards], dtype=np.int64)


def ranges_of(mixture: Mixture, cache_bytes: int) -> dict[int, dict[str, ByteRanges]]:
    """Byte ranges by number of each remote source: whole shards where the cache holds those of all."""
    remote = {n: s for n, s in enumerate(mixture.sources) if isinstance(s.index.folder, RemoteFolder)}
    members = {number: wanted_members(source) for number, source in remote.items()}
    shards: dict[tuple[str, str], int] = {}
    worthwhile = set()
    for number, source in remote.items():
        sizes = shard_sizes(source.index)
        used = np.unique(np.concatenate([p.shard[p.present] for p in members[number].values()]))
        wanted = sum(int(places.length.sum()) for places in members[number].values())
        if wanted >= WORTHWHILE_SHARE * sizes[used].sum():
            worthwhile.add(number)
        shards |= {(str(source.index.folder), source.index.shards[shard]): int(sizes[shard]) for shard in used.tolist()}
    fits = sum(shards.values()) <= cache_bytes
    return {
        number: whole_shard_ranges(source.index, members[number])
        if fits and number in worthwhile
        else clip_ranges(members[number])
        for number, source in remote.items()
    }


def range_path(index: Index, shard: int, start: int, length: int) -> Path:
    """Path of a byte range in the cache."""
    folder, name = index.folder, index.shards[shard]
    assert isinstance(folder, RemoteFolder)
    if (start, length) == (0, folder.size(name)):
        return folder.local / name
    return folder.local / f"{name}{RANGES_SUFFIX}" / f"{start}-{length}"


def clip_bytes(source: Source) -> int:
    """The most bytes that one clip can need: its latents, their stds where they are wanted, the longest text."""
    members = wanted_members(source)
    texts = {text_kind(name) for name in source.captions}
    ranges = clip_ranges({kind: places for kind, places in members.items() if kind not in texts})
    starts = {int(held.start[0]): int(held.length.max()) for held in ranges.values()}  # a shared range counts once
    return sum(starts.values()) + max(int(members[kind].length.max()) for kind in texts)


def place_codes(shard: npt.NDArray[np.int32], offset: Longs) -> Longs:
    """One integer for each place in a source, ordered by shard and offset; negative where there is none."""
    return (shard.astype(np.int64) << _OFFSET_BITS) | offset


def place_codes_of_paths(index: Index, paths: Sequence[str]) -> Longs:
    """Place codes of the byte ranges with these paths below the source's folder in the cache; -1 for other files."""
    numbers = {name: number for number, name in enumerate(index.shards)}
    found = np.full(len(paths), -1, dtype=np.int64)
    for slot, path in enumerate(paths):
        folder, _, name = path.partition("/")
        shard, start = numbers.get(folder.removesuffix(RANGES_SUFFIX)), name.partition("-")[0]
        if shard is not None and (start.isdigit() or not name):
            found[slot] = (shard << _OFFSET_BITS) | int(start or 0)
    return found


def remote_bytes(mixture: Mixture, cache_bytes: int) -> RemoteBytes | None:
    """The bytes that a run fetches; None where all sources are local."""
    ranges = ranges_of(mixture, cache_bytes)
    paths: dict[Path, int] = {}
    for number, kinds in ranges.items():
        index = mixture.sources[number].index
        for held in kinds.values():
            there = held.shard >= 0
            columns = np.unique(np.stack([held.shard[there], held.start[there], held.length[there]]), axis=1)
            paths |= {range_path(index, *column): column[2] for column in columns.T.tolist()}
    if not ranges:
        return None
    cached = sum(size for path, size in paths.items() if path.exists())
    whole_shards = all(path.parent.suffix != RANGES_SUFFIX for path in paths)
    return RemoteBytes(sum(paths.values()), cached, cache_bytes, whole_shards)
