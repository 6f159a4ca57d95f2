"""Stores of latents: in shards on disk, in memory, or on the accelerator.

All stores have the same methods: raw latents of some clips, their stds where the source samples its posteriors, and
their text features. A window is the part of a long clip that begins at that second
(`uniform/latents/shards/windows.py`). B clips, M tokens, D channels.
"""

import os
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Buffer

from uniform.errors import ShardError, SpecMismatchError
from uniform.latents.batches.batch import Text
from uniform.latents.batches.mixture import Mixture, Source
from uniform.latents.fetching.byte_ranges import ranges_of
from uniform.latents.fetching.cache import Cache
from uniform.latents.fetching.members import FetchedMembers, Fetchers
from uniform.latents.shards.index import Places
from uniform.latents.shards.members import Members, Shard, Shards, std_kind, text_kind
from uniform.latents.shards.windows import Cut, cuts
from uniform.pair import Pair

Rows = npt.NDArray[np.int64]
Verify = Literal["never", "first", "always"]
READ_CLIPS = 256
"""Clips that are read at once where a whole source is."""


class Store(Protocol):
    """Latents and texts of one source."""

    def latents(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        """Write the raw float16 latents of windows of clips `rows` to rows `slots` of `into`. Raises: ShardError."""
        ...

    def stds(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        """As `latents`, the standard deviations of the posteriors; only where the source samples them."""
        ...

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        """float16 (tokens, D) of each clip's text in the set with that number. Raises: ShardError."""
        ...


class DiskStore:
    """Reads members of shards or of fetched byte ranges straight into the batch: one copy, in any order."""

    def __init__(self, source: Source, members: Members, verify: Verify) -> None:
        index = source.index
        self.source, self.members = source, members
        self.verify = verify
        self.places = {"video": index.video, "audio": index.audio}
        self.places |= {std_kind(name): places for name, places in index.stdev.items()}
        of = cuts(index.spec, index.card.windows)
        self.cuts = of | {std_kind(name): cut for name, cut in of.items()}
        self.headers: dict[str, tuple[bytes, int]] = {}
        self.seen = {name: np.zeros(len(index), dtype=np.bool_) for name in (*self.places, *source.captions)}

    @property
    def remote(self) -> FetchedMembers | None:
        """The members of a remote source; None for a local one."""
        return self.members if isinstance(self.members, FetchedMembers) else None

    def latents(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        self.copy("video", rows, windows, into.video, slots)
        self.copy("audio", rows, windows, into.audio, slots)

    def stds(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        self.copy(std_kind("video"), rows, windows, into.video, slots)
        self.copy(std_kind("audio"), rows, windows, into.audio, slots)

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        return [self._text(row, caption) for row, caption in zip(rows.tolist(), captions.tolist(), strict=True)]

    def prefetch(self, rows: Rows, captions: Rows | None = None) -> None:
        """Prefetch the latents of `rows`, and their texts in the sets with these numbers (-1 for none)."""
        for what, places in self.places.items():
            self.members.prefetch(what, places, rows)
        for number in () if captions is None else sorted(set(captions[captions >= 0].tolist())):
            name = self.source.captions[number]
            self.members.prefetch(text_kind(name), self.source.index.texts[name], rows[captions == number])

    def copy(self, what: str, rows: Rows, windows: Rows | None, into: Tensor, slots: Rows) -> None:
        """Write one kind of array to rows `slots` of `into`: these windows, or all of it where `windows` is None."""
        places, cut = self.places[what], self.cuts[what]
        target = into.numpy().reshape(len(into), -1).view(np.uint8)
        part = places.take(rows)
        header, size = self._header(what, places, int(rows[0]))
        length = len(header) + size
        same_length = bool((part.length == length).all())
        start, scratch = bytearray(len(header)), np.empty(size, np.uint8)
        find, checked = self.members.find, self.verify != "never"
        cut_steps: list[slice | None] = [None] * len(rows)
        if windows is not None and not cut.single:
            cut_steps = [cut.steps(window) for window in windows.tolist()]
        for row, slot, shard, offset, steps in zip(
            rows.tolist(), slots.tolist(), part.shard.tolist(), part.offset.tolist(), cut_steps, strict=True
        ):
            opened, at = find(what, row, shard, offset)
            if not same_length:
                self._array(what, places, row)  # raises with the reason
            content: memoryview = (target[slot] if steps is None else scratch).data
            opened.read_into(at, (start, content), length)
            if start != header:
                self._array(what, places, row)  # raises with the reason
            if checked:
                self._check(what, places, row, opened, at, (start, content))
            if steps is not None:
                part_of_clip = scratch.reshape(*cut.flat[:2], -1)[:, steps]
                target[slot].reshape(part_of_clip.shape)[:] = part_of_clip

    def _header(self, what: str, places: Places, row: int) -> tuple[bytes, int]:
        """The .npy header that every member of this kind begins with, and the bytes after it."""
        if what not in self.headers:
            array = self._array(what, places, row)
            begin = int(places.length[row]) - array.nbytes
            opened, at = self.members.find(what, row, int(places.shard[row]), int(places.offset[row]))
            self.headers[what] = opened.read(at, begin), array.nbytes
        return self.headers[what]

    def _array(self, what: str, places: Places, row: int) -> npt.NDArray[Any]:
        name = f"the {what} of clip {self.source.index.clip_ids[row]}"
        shard, at = self.members.find(what, row, int(places.shard[row]), int(places.offset[row]))
        array = shard.array(at, int(places.length[row]), name)
        wanted = self.cuts[what].whole
        if array.shape != wanted or array.dtype != np.float16:
            spec = self.source.index.spec.name
            raise SpecMismatchError(
                f"{shard.path}: {name} is {array.dtype} {array.shape}; spec '{spec}' of the card wants float16 "
                f"{wanted}. The shards and the card do not belong together: run `uniform shards lint` on the folder."
            )
        return array

    def _text(self, row: int, caption: int) -> Text:
        name = self.source.captions[caption]
        places = self.source.index.texts[name]
        what = f"the text '{name}' of clip {self.source.index.clip_ids[row]}"
        shard, at = self.members.find(text_kind(name), row, int(places.shard[row]), int(places.offset[row]))
        member = shard.read(at, int(places.length[row]))
        array = shard.array_of(member, at, what)
        if array.ndim != 2 or 0 in array.shape or array.dtype != np.float16:
            raise ShardError(f"{shard.path}: {what} is {array.dtype} {array.shape}; wanted float16 (tokens, width).")
        if self.verify != "never":
            self._check(name, places, row, shard, at, (member,))
        return array

    def _check(self, what: str, places: Places, row: int, shard: Shard, at: int, parts: Sequence[Buffer]) -> None:
        """Compare the bytes that were read, not the file's, with the index."""
        if self.verify == "first" and self.seen[what][row]:
            return
        found = 0
        for part in parts:
            found = zlib.crc32(part, found)
        what_of = f"the {what} of clip {self.source.index.clip_ids[row]}"
        shard.compare_crc(found, int(places.crc32[row]), at, what_of)
        self.seen[what][row] = True


class ResidentStore:
    """All latents and texts of a source in one place, on the CPU or on an accelerator: a batch is one gather a window.

    Where only first windows are wanted, nothing else of long clips is held.
    """

    def __init__(self, disk: DiskStore, device: torch.device) -> None:
        """Read the whole source once. Raises: ShardError where it does not fit."""
        source = disk.source
        self.device = device
        self.cuts = {what: disk.cuts[what] for what in disk.places}
        if source.windows == 1:
            self.cuts = {what: Cut(cut.window, cut.window, cut.stride) for what, cut in self.cuts.items()}
        _require_memory(source, self.cuts, device)
        self.held = {what: self._held(disk, what, source.windows == 1) for what in self.cuts}
        self._texts = [_pack(disk, source, number, device) for number in range(len(source.captions))]

    def _held(self, disk: DiskStore, what: str, first_only: bool) -> Tensor:
        """float16 (clips, channels, steps, the rest) of all clips."""
        clips, shape = len(disk.source.index), self.cuts[what].flat
        held = torch.empty((clips, *shape), dtype=torch.float16, device=self.device)
        for start in range(0, clips, READ_CLIPS):
            rows = np.arange(start, min(start + READ_CLIPS, clips), dtype=np.int64)
            disk.prefetch(rows)
            part = torch.empty((len(rows), *shape), dtype=torch.float16)
            disk.copy(what, rows, np.zeros_like(rows) if first_only else None, part, rows - start)
            held[start : start + len(rows)] = part.to(self.device)
        return held

    def latents(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        self._gather("video", rows, windows, into.video, slots)
        self._gather("audio", rows, windows, into.audio, slots)

    def stds(self, rows: Rows, windows: Rows, into: Pair, slots: Rows) -> None:
        self._gather(std_kind("video"), rows, windows, into.video, slots)
        self._gather(std_kind("audio"), rows, windows, into.audio, slots)

    def _gather(self, what: str, rows: Rows, windows: Rows, into: Tensor, slots: Rows) -> None:
        cut = self.cuts[what]
        for window in sorted(set(windows.tolist())):
            mine = windows == window
            chosen, places = torch.from_numpy(rows[mine]).to(self.device), torch.from_numpy(slots[mine]).to(self.device)
            found = self.held[what][:, :, cut.steps(window)].index_select(0, chosen)
            into.index_copy_(0, places, found.reshape(len(chosen), *cut.window))

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        found = []
        for row, caption in zip(rows.tolist(), captions.tolist(), strict=True):
            tokens, starts = self._texts[caption]
            found.append(tokens[starts[row] : starts[row + 1]])
        return found


def _pack(disk: DiskStore, source: Source, caption: int, device: torch.device) -> tuple[Text, list[int]]:
    """A caption set's tokens one after another, and where each clip's begin; a clip without a text has none."""
    present = np.flatnonzero(source.index.texts[source.captions[caption]].present)
    lengths = np.zeros(len(source.index), dtype=np.int64)
    parts = []
    for start in range(0, len(present), READ_CLIPS):
        rows = present[start : start + READ_CLIPS]
        captions = np.full(len(rows), caption, dtype=np.int64)
        disk.prefetch(rows, captions)
        texts = disk.texts(rows, captions)
        lengths[rows] = [len(text) for text in texts]
        parts.append(np.concatenate(texts))
    packed = np.concatenate(parts)
    starts = [0, *np.cumsum(lengths).tolist()]
    return packed if device.type == "cpu" else torch.from_numpy(packed).to(device), starts


def _require_memory(source: Source, held: Mapping[str, Cut], device: torch.device) -> None:
    index = source.index
    wanted = sum(int(index.texts[name].length.sum()) for name in source.captions)
    wanted += len(index) * sum(2 * prod(cut.whole) for cut in held.values())
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > 0.9 * free:
        raise ShardError(
            f"{index.folder}: its latents and texts take {wanted / 1e9:.2f} GB, {device} has {free / 1e9:.2f} GB free. "
            f'Set data.residency = "disk".'
        )


def open_stores(
    mixture: Mixture, residency: Literal["disk", "ram", "gpu"], verify: Verify, device: torch.device, cache: Cache
) -> list[Store]:
    """A store for each source. Fetched members are compared with the index once at least, whatever `verify` says."""
    ranges = ranges_of(mixture, cache.limit_bytes)
    fetchers = Fetchers() if ranges else None
    found: dict[int, Members] = {}
    if fetchers is not None:
        found |= {n: FetchedMembers(mixture, n, held, cache, fetchers) for n, held in ranges.items()}
        cache.trim()
    stores: list[Store] = []
    for number, source in enumerate(mixture.sources):
        checked = "first" if verify == "never" and number in found else verify
        members = found.get(number) or Shards(Path(str(source.index.folder)), source.index.shards)
        disk = DiskStore(source, members, checked)
        if residency == "disk":
            stores.append(disk)
        else:
            stores.append(ResidentStore(disk, device if residency == "gpu" else torch.device("cpu")))
    if fetchers is not None and residency != "disk":
        fetchers.close()  # everything is here
    return stores
