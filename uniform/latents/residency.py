"""Where latents wait until a batch wants them: in mapped shards on disk, in memory, or on the accelerator.

All stores answer the same two questions: the raw latents of some clips, and their text features. B clips, M tokens,
D numbers per token.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uniform.errors import ShardError, SpecMismatchError
from uniform.latents.batch import Text
from uniform.latents.index import Places
from uniform.latents.members import Shards
from uniform.latents.mixture import Source
from uniform.pair import Pair

Rows = npt.NDArray[np.int64]
Verify = Literal["never", "first", "always"]


class Store(Protocol):
    """Latents and texts of one source."""

    def latents(self, rows: Rows, into: Pair, slots: Rows) -> None:
        """Write the raw float16 latents of clips `rows` to rows `slots` of `into`. Raises: ShardError."""
        ...

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        """float16 (tokens, D) of each clip's text in the set with that number. Raises: ShardError."""
        ...


class DiskStore:
    """Members copied straight out of memory-mapped shards: one copy, in any order."""

    def __init__(self, source: Source, verify: Verify) -> None:
        index = source.index
        self.source = source
        self.shards = Shards(index.folder, index.shards)
        self.verify = verify
        self.shapes = {"video": index.spec.video_latent, "audio": index.spec.audio_latent}
        self.headers: dict[str, tuple[bytes, int]] = {}
        self.seen = {name: np.zeros(len(index), dtype=np.bool_) for name in ("video", "audio", *source.captions)}

    def latents(self, rows: Rows, into: Pair, slots: Rows) -> None:
        self._copy("video", self.source.index.video, rows, into.video, slots)
        self._copy("audio", self.source.index.audio, rows, into.audio, slots)

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        return [self._text(row, caption) for row, caption in zip(rows.tolist(), captions.tolist(), strict=True)]

    def prefetch(self, rows: Rows) -> None:
        """Ask the kernel to read the latents of `rows` soon, all at once instead of one fault after another."""
        for places in (self.source.index.video, self.source.index.audio):
            part = places.take(rows)
            for shard, offset, length in zip(
                part.shard.tolist(), part.offset.tolist(), part.length.tolist(), strict=True
            ):
                self.shards[shard].prefetch(offset, length)

    def _copy(self, what: str, places: Places, rows: Rows, into: Tensor, slots: Rows) -> None:
        target = into.numpy().reshape(len(into), -1).view(np.uint8)
        part = places.take(rows)
        for number in set(part.shard.tolist()):
            self.shards[number].require_whole()
        header, size = self._header(what, places, int(rows[0]))
        begin = len(header)
        same_length = bool((part.length == begin + size).all())
        for row, slot, shard, offset in zip(
            rows.tolist(), slots.tolist(), part.shard.tolist(), part.offset.tolist(), strict=True
        ):
            opened = self.shards[shard]
            if not same_length or opened.map[offset : offset + begin] != header:
                self._array(what, places, row)  # says what is wrong with it
            if self.verify != "never":
                self._check(what, places, row)
            target[slot] = opened.bytes[offset + begin : offset + begin + size]

    def _header(self, what: str, places: Places, row: int) -> tuple[bytes, int]:
        """The .npy header that every member of this kind begins with, and the bytes after it."""
        if what not in self.headers:
            array = self._array(what, places, row)
            begin = int(places.length[row]) - array.nbytes
            offset = int(places.offset[row])
            self.headers[what] = self.shards[int(places.shard[row])].map[offset : offset + begin], array.nbytes
        return self.headers[what]

    def _array(self, what: str, places: Places, row: int) -> npt.NDArray[Any]:
        name = f"the {what} of clip {self.source.index.clip_ids[row]}"
        shard = self.shards[int(places.shard[row])]
        array = shard.array(int(places.offset[row]), int(places.length[row]), name)
        wanted = self.shapes[what]
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
        shard = self.shards[int(places.shard[row])]
        array = shard.array(int(places.offset[row]), int(places.length[row]), what)
        if array.ndim != 2 or 0 in array.shape or array.dtype != np.float16:
            raise ShardError(f"{shard.path}: {what} is {array.dtype} {array.shape}; wanted float16 (tokens, width).")
        if self.verify != "never":
            self._check(name, places, row)
        return array

    def _check(self, what: str, places: Places, row: int) -> None:
        if self.verify == "first" and self.seen[what][row]:
            return
        self.shards[int(places.shard[row])].require_crc(
            int(places.offset[row]),
            int(places.length[row]),
            int(places.crc32[row]),
            f"the {what} of clip {self.source.index.clip_ids[row]}",
        )
        self.seen[what][row] = True


class ResidentStore:
    """All latents and texts of a source in one place, on the CPU or on an accelerator: a batch is one gather."""

    def __init__(self, source: Source, verify: Verify, device: torch.device) -> None:
        """Read the whole source once. Raises: ShardError where it does not fit."""
        disk = DiskStore(source, verify)
        clips, spec = len(source.index), source.index.spec
        _require_room(source, device)
        self.device = device
        self.video = torch.empty((clips, *spec.video_latent), dtype=torch.float16, device=device)
        self.audio = torch.empty((clips, *spec.audio_latent), dtype=torch.float16, device=device)
        for start in range(0, clips, 256):
            rows = np.arange(start, min(start + 256, clips), dtype=np.int64)
            part = Pair(
                torch.empty((len(rows), *spec.video_latent), dtype=torch.float16),
                torch.empty((len(rows), *spec.audio_latent), dtype=torch.float16),
            )
            disk.latents(rows, part, rows - start)
            self.video[start : start + len(rows)] = part.video.to(device)
            self.audio[start : start + len(rows)] = part.audio.to(device)
        self._texts = [_pack(disk, source, number, device) for number in range(len(source.captions))]

    def latents(self, rows: Rows, into: Pair, slots: Rows) -> None:
        chosen, places = torch.from_numpy(rows).to(self.device), torch.from_numpy(slots).to(self.device)
        into.video.index_copy_(0, places, self.video.index_select(0, chosen))
        into.audio.index_copy_(0, places, self.audio.index_select(0, chosen))

    def texts(self, rows: Rows, captions: Rows) -> list[Text]:
        found = []
        for row, caption in zip(rows.tolist(), captions.tolist(), strict=True):
            tokens, starts = self._texts[caption]
            found.append(tokens[starts[row] : starts[row + 1]])
        return found


def _pack(disk: DiskStore, source: Source, caption: int, device: torch.device) -> tuple[Text, list[int]]:
    """A caption set's tokens one after another, and where each clip's begin; a clip without a text has none."""
    present = np.flatnonzero(source.index.texts[source.captions[caption]].present)
    texts = disk.texts(present, np.full(len(present), caption, dtype=np.int64))
    lengths = np.zeros(len(source.index), dtype=np.int64)
    lengths[present] = [len(text) for text in texts]
    packed = np.concatenate(texts)
    starts = [0, *np.cumsum(lengths).tolist()]
    return packed if device.type == "cpu" else torch.from_numpy(packed).to(device), starts


def _require_room(source: Source, device: torch.device) -> None:
    index = source.index
    places = [index.video, index.audio, *(index.texts[name] for name in source.captions)]
    wanted = sum(int(part.length.sum()) for part in places)
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
    sources: Sequence[Source], residency: Literal["disk", "ram", "gpu"], verify: Verify, device: torch.device
) -> list[Store]:
    """A store for each source."""
    if residency == "disk":
        return [DiskStore(source, verify) for source in sources]
    where = device if residency == "gpu" else torch.device("cpu")
    return [ResidentStore(source, verify, where) for source in sources]
