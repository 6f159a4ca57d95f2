"""`LatentDataset`: latent shards as a map-style dataset of torch, read at random through the index.

    dataset = LatentDataset("shards", split="train")
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2, collate_fn=dataset.collate)

For object stores where random reads are slow, `dataset.stream()` reads the shards in order. B clips, M tokens.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from uniform.api.arrays import Clip, Clips, Packed, Scale, scale_of
from uniform.api.latent_stream import LatentStream
from uniform.errors import ConfigError
from uniform.latents.batches.mixture import Mixture, Source, SourceConfig
from uniform.latents.fetching.cache import Cache
from uniform.latents.fetching.residency import DiskStore, Store, Verify, open_stores
from uniform.latents.format import Card
from uniform.latents.loader.loader import LoaderConfig
from uniform.latents.shards.remote import RemoteFolder, default_cache_folder
from uniform.pair import Pair
from uniform.spec import Spec

CPU = torch.device("cpu")


class LatentDataset(Dataset[Clip]):
    """Latents and text features of the clips of one folder of shards, as named arrays in the order of the index.

    `dataset[3]` is a `Clip` of NumPy arrays; `dataset[[3, 5, 8]]` is `Clips`, tensors, read at once. A DataLoader gives
    such batches too; with `collate_fn=LatentDataset.collate` it copies nothing, which is the quickest way. Worker
    processes open the shards themselves.
    """

    def __init__(
        self,
        shards: str | Path,
        *,
        split: str | None = None,
        captions: str | Sequence[str] = (),
        text_tokens: int | None = None,
        normalise: bool = True,
        verify: Verify = "first",
        cache_folder: Path | None = None,
    ) -> None:
        """Open and check the index; nothing of the shards is read yet.

        Args:
            shards: folder with index.parquet, card.json and shards, or its URL (s3://, gs://, az://, hf://, https://).
            split: only clips of this split; None takes all.
            captions: caption sets; a clip has the text of the first of them in which it has one. Empty: all sets, in
                the order of their names. Weighted draws between sets and folders are the work of `Mixture`.
            text_tokens: M of every clip, longer texts are cut; None is the longest text of the dataset.
            normalise: give float32 latents as the network reads them; False gives raw float16 as stored.
            verify: compare a member with the checksum of the index "never", when it is "first" read, or "always".
            cache_folder: receives what is fetched from a URL; None is ~/.cache/uniform/shards.
        Raises: ConfigError, ShardError, RemoteError.
        """
        sets = (captions,) if isinstance(captions, str) else tuple(captions)
        if text_tokens is not None and text_tokens < 1:
            raise ConfigError(f"text_tokens is {text_tokens}; it must be 1 or more")
        self.config = SourceConfig(folder=shards, split=split, captions=sets, missing_text="drop")
        self.normalise, self.verify = normalise, verify
        self._cache_folder = cache_folder or default_cache_folder()
        self._mixture: Mixture | None = Mixture([self.config], 0, self._cache_folder)
        self._store: Store | None = None
        self._process = os.getpid()
        source = self._mixture.sources[0]
        self.spec: Spec = source.index.spec
        card = source.index.card
        self.scales: dict[str, Scale] = {
            "video": scale_of(card, self.spec, "video"),
            "audio": scale_of(card, self.spec, "audio"),
        }
        self._caption = _first_caption(source)
        self.text_width, longest = self._text_shape()
        self.text_tokens = text_tokens or longest

    def __len__(self) -> int:
        return len(self.source.index)

    @property
    def source(self) -> Source:
        """The opened folder: its index and caption sets."""
        return self._opened()[0]

    @property
    def card(self) -> Card:
        """The card of the shards: spec, codecs, statistics."""
        return self.source.index.card

    @property
    def clip_ids(self) -> list[str]:
        """Id of each clip, in the order of the dataset."""
        return [str(name) for name in self.source.index.clip_ids]

    @overload
    def __getitem__(self, number: int) -> Clip: ...
    @overload
    def __getitem__(self, number: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Clips: ...
    def __getitem__(self, number: int | Sequence[int] | npt.NDArray[np.integer[Any]]) -> Clip | Clips:
        """One clip, or several at once. Raises: IndexError, ShardError for a damaged clip, RemoteError."""
        if isinstance(number, int | np.integer):
            return self.__getitems__([int(number)])[0]
        return self._read(np.asarray(number, dtype=np.int64)).clips()

    def __getitems__(self, numbers: list[int]) -> "Rows":
        """The clips of a batch, read at once, for a DataLoader."""
        return Rows(self._read(np.asarray(numbers, dtype=np.int64)))

    @staticmethod
    def collate(rows: Sequence[Clip]) -> Clips:
        """`collate_fn` of a DataLoader: a batch as it was read, without a copy; `rows` are of `__getitems__`."""
        if not isinstance(rows, Rows):
            raise TypeError(f"LatentDataset.collate is for batches of a LatentDataset; got {type(rows).__name__}")
        if get_worker_info() is None:
            return rows.packed.clips()
        return cast(Clips, rows.packed)  # it is sent to the training loop, and becomes Clips there

    def stream(self, *, shuffle_clips: int | None = 1_000, seed: int = 0) -> LatentStream:
        """The same clips read shard by shard, as an iterable dataset of torch (see `LatentStream`).

        Args:
            shuffle_clips: clips of the shuffle buffer; None reads shards and clips in order.
            seed: of the order; change the epoch with `set_epoch`.
        """
        return LatentStream(
            self.source,
            self._caption,
            scales=self.scales if self.normalise else None,
            text_tokens=self.text_tokens,
            text_width=self.text_width,
            shuffle_clips=shuffle_clips,
            seed=seed,
            verify=self.verify != "never",
        )

    def _read(self, rows: npt.NDArray[np.int64]) -> Packed:
        source, store = self._opened()
        count = len(source.index)
        if rows.ndim != 1 or (len(rows) and (rows.min() < -count or rows.max() >= count)):
            raise IndexError(f"{rows.tolist()}: the dataset has {count} clips")
        rows = np.where(rows < 0, rows + count, rows)
        slots, windows = np.arange(len(rows)), np.zeros_like(rows)
        shapes = {
            "video": (len(rows), *self.spec.video_latent),
            "audio": (len(rows), *self.spec.audio_latent),
            "text": (len(rows), self.text_tokens, self.text_width),
            "text_mask": (len(rows), self.text_tokens),
        }
        packed = Packed.empty(shapes, source.index.clip_ids[rows].tolist(), self.scales if self.normalise else None)
        if len(rows) == 0:
            return packed
        if isinstance(store, DiskStore) and store.remote is not None:
            store.prefetch(rows, self._caption[rows])
        store.latents(rows, windows, Pair(packed.arrays["video"], packed.arrays["audio"]), slots)
        text, mask = packed.arrays["text"].numpy(), packed.arrays["text_mask"].numpy()
        has_text = np.flatnonzero(self._caption[rows] >= 0)
        for slot, found in zip(has_text, store.texts(rows[has_text], self._caption[rows[has_text]]), strict=True):
            tokens = min(len(found), self.text_tokens)
            text[slot, :tokens], mask[slot, :tokens] = found[:tokens], True
        return packed

    def _text_shape(self) -> tuple[int, int]:
        """Dimensions of a token, and tokens of the longest text. Raises: ShardError where no clip has a text."""
        source, store = self._opened()
        width, longest = 0, 1
        for number, name in enumerate(source.captions):
            lengths = np.where(self._caption == number, source.index.texts[name].length, 0)
            if lengths.any():
                row = np.array([lengths.argmax()])
                found = store.texts(row, np.array([number]))[0]
                width, longest = found.shape[-1], max(longest, len(found))
        return width, longest

    def _opened(self) -> tuple[Source, Store]:
        """Source and store of this process: threads, sockets and file maps do not pass from one to another."""
        if self._process != os.getpid():
            self._store, self._process = None, os.getpid()
            if self._mixture is not None and isinstance(self._mixture.first.folder, RemoteFolder):
                self._mixture = None
        if self._mixture is None:
            self._mixture = Mixture([self.config], 0, self._cache_folder)
        if self._store is None:
            cache = Cache(self._cache_folder, LoaderConfig().cache_bytes)
            (self._store,) = open_stores(self._mixture, "disk", self.verify, CPU, cache)
        return self._mixture.sources[0], self._store

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_store": None}
        if self._mixture is not None and isinstance(self._mixture.first.folder, RemoteFolder):
            state["_mixture"] = None
        return state


def _first_caption(source: Source) -> npt.NDArray[np.int64]:
    """(clips,): number of the first caption set in which each clip has a text; -1 where there is none."""
    has = source.caption_weights > 0  # (sets, clips)
    return np.where(has.any(axis=0), has.argmax(axis=0), -1).astype(np.int64)


class Rows(Sequence[Clip]):
    """The clips of a batch one by one, made when asked for, for torch's default collate function."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.packed.clip_ids)

    @overload
    def __getitem__(self, row: int) -> Clip: ...
    @overload
    def __getitem__(self, row: slice) -> list[Clip]: ...
    def __getitem__(self, row: int | slice) -> Clip | list[Clip]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if not self._arrays:
            clips = self.packed.clips().items()
            self._arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in clips}
        return cast(Clip, {name: values[row] for name, values in self._arrays.items()})
