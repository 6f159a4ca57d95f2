"""`LatentDataset`: latent shards as a map-style dataset of torch, read at random through the index.

    dataset = LatentDataset("shards", split="train")
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2)

For object stores where random reads are slow, `dataset.stream()` reads the shards in order. B clips, M tokens.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from uniform.api.arrays import Clip, Clips, Scale, scale_of
from uniform.api.latent_stream import LatentStream
from uniform.errors import ConfigError
from uniform.latents.batches.mixture import Mixture, Source, SourceConfig
from uniform.latents.fetching.cache import Cache
from uniform.latents.fetching.residency import DiskStore, Store, Verify, open_stores
from uniform.latents.loader.loader import LoaderConfig
from uniform.latents.shards.remote import RemoteFolder, default_cache_folder
from uniform.pair import Pair
from uniform.spec import Spec

CPU = torch.device("cpu")


class LatentDataset(Dataset[Clip]):
    """Latents and text features of the clips of one folder of shards, as named arrays in the order of the index.

    `dataset[3]` is a `Clip`; `dataset[[3, 5, 8]]` is `Clips`, read at once, for a DataLoader with a batch sampler and
    `batch_size=None`, which is the quickest way. Worker processes open the shards themselves.
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
        self.scales = {name: scale_of(source.index.card, self.spec, name) for name in ("video", "audio")}
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
            (clip,) = self.__getitems__([int(number)])
            return clip
        return self._read(np.asarray(number, dtype=np.int64))

    def __getitems__(self, numbers: list[int]) -> list[Clip]:
        """Clips for torch's default collate function, read at once."""
        clips = self._read(np.asarray(numbers, dtype=np.int64))
        names = ("video", "audio", "text", "text_mask", "clip_id")
        return [cast(Clip, {name: clips[name][row] for name in names}) for row in range(len(numbers))]  # type: ignore[literal-required]

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

    def _read(self, rows: npt.NDArray[np.int64]) -> Clips:
        source, store = self._opened()
        count = len(source.index)
        if rows.ndim != 1 or (len(rows) and (rows.min() < -count or rows.max() >= count)):
            raise IndexError(f"{rows.tolist()}: the dataset has {count} clips")
        rows = np.where(rows < 0, rows + count, rows)
        slots, windows = np.arange(len(rows)), np.zeros_like(rows)
        shapes = {"video": self.spec.video_latent, "audio": self.spec.audio_latent}
        raw = Pair(*(torch.empty((len(rows), *shape), dtype=torch.float16) for shape in shapes.values()))
        text = np.zeros((len(rows), self.text_tokens, self.text_width), np.float32)
        mask = np.zeros((len(rows), self.text_tokens), np.bool_)
        if len(rows):
            if isinstance(store, DiskStore):
                store.prefetch(rows, self._caption[rows])
            store.latents(rows, windows, raw, slots)
        has_text = np.flatnonzero(self._caption[rows] >= 0)
        for slot, found in zip(has_text, store.texts(rows[has_text], self._caption[rows[has_text]]), strict=True):
            tokens = min(len(found), self.text_tokens)
            text[slot, :tokens] = found[:tokens]
            mask[slot, :tokens] = True
        video, audio = (self._scaled(name, tensor.numpy()) for name, tensor in zip(shapes, raw, strict=True))
        ids = [str(name) for name in source.index.clip_ids[rows]]
        return Clips(video=video, audio=audio, text=text, text_mask=mask, clip_id=ids)

    def _scaled(self, modality: str, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        scale: Scale = self.scales[modality]
        return scale.normalise(raw) if self.normalise else raw

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
