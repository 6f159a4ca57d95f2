"""`LatentStream`: latent shards read from beginning to end, as an iterable dataset of torch, built on webdataset.

For object stores and disks where random reads are slow: every shard is read once, in long requests. Shards are split
over the processes of a training run and over the workers of a DataLoader, and a buffer shuffles the clips.
"""

import io
import random
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import webdataset as wds
from torch.utils.data import IterableDataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from uniform.api.arrays import Clip, Scale
from uniform.errors import ConfigError, ShardError
from uniform.latents.batches.mixture import Source
from uniform.latents.format import AUDIO_MEMBER, TEXT_MEMBER, VIDEO_MEMBER
from uniform.latents.shards.index import Places
from uniform.latents.shards.remote import RemoteFolder
from uniform.latents.shards.windows import cuts

READ_BYTES = 16 << 20
"""Bytes of one request to a remote folder."""


class LatentStream(IterableDataset[Clip]):
    """The clips of a folder, shard by shard. Make it with `LatentDataset.stream`.

    A worker of a DataLoader reads whole shards, so use no more workers than there are shards. The order is a pure
    function of seed, epoch, and the numbers of processes and workers.
    """

    def __init__(
        self,
        source: Source,
        caption: npt.NDArray[np.int64],
        *,
        scales: Mapping[str, Scale] | None,
        text_tokens: int,
        text_width: int,
        shuffle_clips: int | None,
        seed: int,
        verify: bool,
    ) -> None:
        """
        Args:
            source: the opened folder of shards.
            caption: (clips,), number of the caption set of each clip; -1 for none.
            scales: of both modalities; None gives raw float16.
            text_tokens: M of every clip; text_width: D.
            shuffle_clips: clips of the shuffle buffer; None keeps the order.
            verify: compare each member with the checksum of the index.
        """
        if shuffle_clips is not None and shuffle_clips < 1:
            raise ConfigError(f"shuffle_clips is {shuffle_clips}; it must be 1 or more, or None to read in order")
        self.source, self.caption, self.scales = source, caption, scales
        self.text_tokens, self.text_width = text_tokens, text_width
        self.shuffle_clips, self.seed, self.verify = shuffle_clips, seed, verify
        self.epoch = 0
        self._rows = {str(name): row for row, name in enumerate(source.index.clip_ids)}

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass. Call it before the DataLoader starts its workers."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Clips of one pass over all processes and workers."""
        return len(self.source.index)

    def __iter__(self) -> Iterator[Clip]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        shards = sorted(set(self.source.index.video.shard.tolist()))
        stages: list[Any] = [wds.split_by_node, wds.split_by_worker, self._clips_of]
        if self.shuffle_clips is not None:
            rng.shuffle(shards)
            stages.append(wds.shuffle(self.shuffle_clips, initial=self.shuffle_clips, rng=rng))
        pipeline = wds.DataPipeline(lambda: iter(shards), *stages)
        yield from pipeline

    def _clips_of(self, shards: Iterator[int]) -> Iterator[Clip]:
        index = self.source.index
        for shard in shards:
            texts = [self._texts_of(number, shard) for number in range(len(self.source.captions))]
            for sample in self._samples(index.shards[shard]):
                row = self._rows.get(sample["__key__"])
                if row is None or index.video.shard[row] != shard:
                    continue  # of another split, or not named by the index
                video = self._array(sample, VIDEO_MEMBER, index.video, row)
                audio = self._array(sample, AUDIO_MEMBER, index.audio, row)
                set_number = int(self.caption[row])
                text = None if set_number < 0 else texts[set_number].of(row)
                yield self._clip(row, video, audio, text)

    def _texts_of(self, set_number: int, shard: int) -> "_Texts":
        """The texts that a shard of latents takes from one set, in one pass over the shards of text that hold them."""
        index, caption_set = self.source.index, self.source.captions[set_number]
        rows = np.flatnonzero((self.caption == set_number) & (index.video.shard == shard))
        names = [index.shards[number] for number in sorted(set(index.texts[caption_set].shard[rows].tolist()))]
        return _Texts(self, caption_set, rows, names)

    def _samples(self, name: str) -> Iterator[dict[str, Any]]:
        """The members of one shard, grouped by clip, in the order of the file. Raises: ShardError, RemoteError."""
        folder = self.source.index.folder
        try:
            stream = _open(folder, name)
            files = tar_file_expander([{"url": name, "stream": stream}])
            yield from group_by_keys(files, lcase=False)
        except (OSError, ValueError, EOFError, wds.tariterators.tarfile.TarError) as error:
            raise ShardError(
                f"{folder}/{name}: cannot be read as a shard ({type(error).__name__}: {error.args[:1]}). Copy it "
                f"again, or run `uniform shards lint` on the folder."
            ) from error

    def _array(self, sample: Mapping[str, Any], member: str, places: Places, row: int) -> npt.NDArray[Any]:
        """A member of a sample, compared with the checksum of the index. Raises: ShardError."""
        name = f"{sample['__url__']}: {member} of clip {sample['__key__']}"
        content = sample.get(member)
        if content is None:
            raise ShardError(f"{name} is missing; the index names it. Copy the shard again.")
        if self.verify and zlib.crc32(content) != int(places.crc32[row]):
            raise ShardError(f"{name} is damaged (its checksum is not the index's). Copy the shard again.")
        try:
            array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ShardError(f"{name} is not an array ({error}). Run `uniform shards lint` on the folder.") from error
        return array

    def _clip(self, row: int, video: npt.NDArray[Any], audio: npt.NDArray[Any], text: npt.NDArray[Any] | None) -> Clip:
        index = self.source.index
        of = cuts(index.spec, index.card.windows)
        latents: dict[str, npt.NDArray[Any]] = {}
        for name, array in (("video", video), ("audio", audio)):
            if array.shape != of[name].whole or array.dtype != np.float16:
                raise ShardError(
                    f"{index.folder}: the {name} of clip {index.clip_ids[row]} is {array.dtype} {array.shape}; its "
                    f"card wants float16 {of[name].whole}. Run `uniform shards lint` on the folder."
                )
            first = array.reshape(of[name].flat)[:, of[name].steps(0)].reshape(of[name].window)
            latents[name] = first if self.scales is None else self.scales[name].normalise(torch.tensor(first)).numpy()
        features = np.zeros((self.text_tokens, self.text_width), np.float32)
        mask = np.zeros(self.text_tokens, np.bool_)
        if text is not None:
            tokens = min(len(text), self.text_tokens)
            features[:tokens], mask[:tokens] = text[:tokens], True
        clip_id = str(index.clip_ids[row])
        return Clip(video=latents["video"], audio=latents["audio"], text=features, text_mask=mask, clip_id=clip_id)


class _Texts:
    """The texts of one caption set for the clips of one shard, read in order; what comes early is kept until asked."""

    def __init__(self, stream: LatentStream, caption_set: str, rows: npt.NDArray[np.int64], names: list[str]) -> None:
        self._stream, self._set, self._wanted = stream, caption_set, set(rows.tolist())
        self._samples = (sample for name in names for sample in stream._samples(name))
        self._early: dict[int, npt.NDArray[Any]] = {}

    def of(self, row: int) -> npt.NDArray[Any]:
        """The text (tokens, dimensions) of a clip. Raises: ShardError."""
        while row not in self._early:
            sample = next(self._samples, None)
            index = self._stream.source.index
            if sample is None:
                raise ShardError(f"{index.folder}: no text '{self._set}' of clip {index.clip_ids[row]} in its shard.")
            found = self._stream._rows.get(sample["__key__"])
            if found in self._wanted and found is not None:
                places = index.texts[self._set]
                self._early[found] = self._stream._array(sample, TEXT_MEMBER, places, found)
        return self._early.pop(row)


def _open(folder: Path | RemoteFolder, name: str) -> io.BufferedIOBase:
    if isinstance(folder, RemoteFolder):
        return io.BufferedReader(_RemoteFile(folder, name), READ_BYTES)
    return (folder / name).open("rb")


class _RemoteFile(io.RawIOBase):
    """A shard of a remote folder, read from beginning to end with the folder's retries."""

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder, self._name, self._at = folder, name, 0
        self._size = folder.size(name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        content = self._folder.read(self._name, self._at, stop) if stop > self._at else b""
        buffer[: len(content)] = content
        self._at = stop
        return len(content)
