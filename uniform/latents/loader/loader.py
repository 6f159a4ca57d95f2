"""Latent shards to batches: the global batch at step s is a pure function of (mixture, seed, s).

Each process takes its slice of the global batch, so every number of processes sees the same batches and every process
makes the same number of steps. Resuming starts at another step. B clips, M tokens, D channels.
"""

import logging
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from uniform.errors import ConfigError, ShardError
from uniform.latents.batches import random_streams as draws
from uniform.latents.batches.batch import Batch, Text, pad_texts
from uniform.latents.batches.mixture import PLAN_FIELDS, Mixture, Plan
from uniform.latents.fetching.cache import Cache
from uniform.latents.fetching.prefetch_schedule import PrefetchScheduler
from uniform.latents.fetching.residency import DiskStore, Verify, open_stores
from uniform.latents.loader.read_ahead import read_ahead
from uniform.latents.shards.remote import default_cache_folder
from uniform.pair import Pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How latent shards become batches."""

    global_batch: int = 32
    """Clips per step, over all processes (paper, 4.1: 32)."""
    residency: Literal["disk", "ram", "gpu"] = "disk"
    """Where latents are held: in mapped shards, in memory, or on the accelerator (each process holds all of them)."""
    read_ahead: int = 2
    """Steps that a thread prepares in advance; 0 reads in the training loop."""
    verify: Verify = "first"
    """Compare a member with the checksum of the index never, when it is first read, or always."""
    max_corrupt: int = 0
    """Damaged clips that a process may replace by their neighbour in the index before it stops."""
    pad_text_to: int | None = None
    """Tokens of every batch, longer texts are cut; None pads to the longest text of the batch."""
    cache_folder: Path | None = None
    """Receives what is fetched from remote sources; None is ~/.cache/uniform/shards."""
    cache_bytes: int = 64 << 30
    """The most that it may hold, for all processes of a machine together (ours: 64 GiB, more than the paper's set)."""
    fetch_ahead: int = 16
    """Steps whose clips are fetched in advance, fewer where they would fill half the cache; 0 fetches when read."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("global_batch", 1), ("read_ahead", 0), ("max_corrupt", 0)),
            *(("cache_bytes", 1), ("fetch_ahead", 0)),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; it must be {least} or more")
        if self.pad_text_to is not None and self.pad_text_to < 1:
            raise ConfigError(f"data.pad_text_to is {self.pad_text_to}; it must be 1 or more")


class Loader:
    """Batches of one process. `read` may be called from any thread; calls wait for each other."""

    def __init__(
        self,
        mixture: Mixture,
        config: LoaderConfig,
        *,
        rank: int = 0,
        processes: int = 1,
        micro_batches: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """Open the stores of all sources.

        Args:
            rank: number of this process, of `processes`.
            micro_batches: parts that this process's slice of a global batch is cut into (gradient accumulation).
            device: where batches are wanted; None is the CPU.
        Raises: ConfigError where the global batch cannot be split so, is larger than the dataset, or than the cache.
        """
        parts = processes * micro_batches
        if config.global_batch % parts:
            raise ConfigError(
                f"data.global_batch is {config.global_batch}; {processes} processes with {micro_batches} micro-batches "
                f"each need a multiple of {parts}: {max(1, config.global_batch // parts) * parts} would do"
            )
        if mixture.clips < config.global_batch:
            raise ConfigError(
                f"data.global_batch is {config.global_batch}, but the sources have {mixture.clips} clips together. "
                f"Prepare more clips, or lower data.global_batch to {mixture.clips} or less."
            )
        self.mixture, self.config = mixture, config
        self.rank, self.processes, self.micro_batches = rank, processes, micro_batches
        self.device = device or torch.device("cpu")
        self.corrupt: dict[str, str] = {}
        """Damaged clips that were replaced: clip id to error."""
        cache = Cache(config.cache_folder or default_cache_folder(), config.cache_bytes)
        self._stores = open_stores(mixture, config.residency, config.verify, self.device, cache)
        self._prefetch_schedule = PrefetchScheduler(
            mixture, self._stores, config.global_batch, config.fetch_ahead, config.cache_bytes
        )
        self._lock = threading.Lock()
        self._scales = {name: self._card_statistics(name) for name in ("video", "audio")}
        self._raw: Pair | None = None
        self._stds: Pair | None = None
        self._samples = any(source.config.posterior == "sample" for source in mixture.sources)
        self._cut = False
        self._stream = _side_stream(self.device)
        self.text_width = self._first_text_width()

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which as many samples are drawn as the sources have clips."""
        return self.mixture.clips / self.config.global_batch

    def clip_ids(self, step: int) -> list[str]:
        """Ids of the whole global batch at `step`, over all processes, as planned."""
        return self._names(self.mixture.span(step * self.config.global_batch, self.config.global_batch))

    def read(self, step: int) -> tuple[Batch, ...]:
        """This process's micro-batches at `step`.

        Raises: ShardError where a member is damaged and the tolerance is used up, or a shard is gone; RemoteError.
        """
        with self._lock, torch.cuda.stream(self._stream):
            self._prefetch_schedule.at(step, self._share)
            share = self.config.global_batch // self.processes
            size = share // self.micro_batches
            first = step * self.config.global_batch + self.rank * share
            return tuple(
                self._batch(self.mixture.span(first + part * size, size)) for part in range(self.micro_batches)
            )

    def stream(self, start: int, stop: int | None = None) -> Generator[tuple[Batch, ...]]:
        """`read` of steps `start`, `start` + 1, ... `stop` - 1 (or for ever), prepared in advance by a thread."""
        if self.config.read_ahead == 0:
            step = start
            while stop is None or step < stop:
                yield self.read(step)
                step += 1
            return
        for batches in read_ahead(self.read, self.prefetch, start, stop, self.config.read_ahead):
            for batch in batches if self._stream is not None else ():
                batch.hold()
            yield batches

    def close(self) -> None:
        """Stop fetching. Only remote sources need it; the loader is not read again."""
        self._prefetch_schedule.close()

    def prefetch(self, step: int) -> None:
        """Start reading the bytes that this process needs at `step` from disk."""
        plan = self._share(step)
        for number, store in enumerate(self._stores):
            if isinstance(store, DiskStore) and not store.remote:
                store.prefetch(plan.clip[plan.source == number])

    def _share(self, step: int) -> Plan:
        """What this process reads at `step`."""
        share = self.config.global_batch // self.processes
        return self.mixture.span(step * self.config.global_batch + self.rank * share, share)

    def _batch(self, plan: Plan) -> Batch:
        plan, clean = self._sound(plan)
        texts, limit = self._texts(plan), self.config.pad_text_to
        longest = max(len(text) for text in texts)
        if limit is not None and longest > limit and not self._cut:
            self._cut = True
            logger.warning("texts, the first of %d tokens, are cut to data.pad_text_to = %d", longest, limit)
        text, mask = pad_texts(texts, limit)
        has_text = torch.from_numpy(plan.caption >= 0)
        batch = Batch(
            clean=Pair(self._normalise(clean.video, "video"), self._normalise(clean.audio, "audio")),
            text=text.to(self.device).float(),
            text_mask=mask.to(self.device),
            has_text=has_text.to(self.device),
            clip_ids=self._names(plan),
            positions=plan.positions,
            datasets=[
                str(self.mixture.sources[source].index.datasets[clip])
                for source, clip in zip(plan.source.tolist(), plan.clip.tolist(), strict=True)
            ],
            caption_sets=[
                self.mixture.sources[source].captions[caption] if caption >= 0 else ""
                for source, caption in zip(plan.source.tolist(), plan.caption.tolist(), strict=True)
            ],
        )
        if self._stream is not None:
            self._stream.synchronize()  # the raw buffers are used again at once
        return batch

    def _names(self, plan: Plan) -> list[str]:
        return [
            str(self.mixture.sources[source].index.clip_ids[clip])
            for source, clip in zip(plan.source.tolist(), plan.clip.tolist(), strict=True)
        ]

    def raw(self, plan: Plan) -> Pair:
        """The float16 latents of a plan, unnormalised, in buffers that the next call overwrites. Raises: ShardError."""
        if self._raw is None or len(self._raw.video) != len(plan.positions):
            self._raw = self._buffers(len(plan.positions))
        for number, store in enumerate(self._stores):
            slots = np.flatnonzero(plan.source == number)
            if len(slots):
                store.latents(plan.clip[slots], plan.window[slots], self._raw, slots)
        return self._raw

    def _buffers(self, count: int) -> Pair:
        where: dict[str, Any] = {"dtype": torch.float16}
        if self.config.residency == "gpu":
            where["device"] = self.device
        else:
            where["pin_memory"] = self.device.type == "cuda"
        spec = self.mixture.first.spec
        return Pair(
            torch.zeros((count, *spec.video_latent), **where), torch.zeros((count, *spec.audio_latent), **where)
        )

    def _latents(self, plan: Plan) -> Pair:
        """float32 latents on the device, unnormalised: means, or samples of posteriors where a source wants them."""
        clean = self.raw(plan).map(lambda mean: mean.to(self.device, torch.float32))
        if not self._samples:
            return clean
        if self._stds is None or len(self._stds.video) != len(plan.positions):
            self._stds = self._buffers(len(plan.positions))
        for tensor in self._stds:
            tensor.zero_()  # a source that uses its posterior means has none
        for number, store in enumerate(self._stores):
            slots = np.flatnonzero(plan.source == number)
            if len(slots) and self.mixture.sources[number].config.posterior == "sample":
                store.stds(plan.clip[slots], plan.window[slots], self._stds, slots)
        noise = draws.noise(self.mixture.seed, plan.positions, clean, draws.Stream.POSTERIOR)
        for mean, std, standard in zip(clean, self._stds, noise, strict=True):
            mean.addcmul_(std.to(self.device, torch.float32), standard)
        return clean

    def _sound(self, plan: Plan) -> tuple[Plan, Pair]:
        """The latents of a plan; damaged clips replaced by their neighbours as far as the tolerance goes."""
        try:
            clean = self._latents(plan)
            if self.config.max_corrupt:
                self._texts(plan)
            return plan, clean
        except ShardError:
            if self.config.max_corrupt == 0:
                raise
        for slot in range(len(plan.positions)):
            self._replace_damaged(plan, slot)
        return plan, self._latents(plan)

    def _replace_damaged(self, plan: Plan, slot: int) -> None:
        source = self.mixture.sources[plan.source[slot]]
        one = slice(slot, slot + 1)
        for _ in range(len(source.index)):
            single = Plan(*(getattr(plan, name)[one] for name in PLAN_FIELDS))
            clip_id = str(source.index.clip_ids[plan.clip[slot]])
            try:
                if clip_id not in self.corrupt:
                    self._latents(single)
                    self._texts(single)
                    return
            except ShardError as error:
                self.corrupt[clip_id] = str(error)
                logger.warning("damaged clip replaced by its neighbour: %s", error)
                if len(self.corrupt) > self.config.max_corrupt:
                    raise ShardError(
                        f"{len(self.corrupt)} damaged clips, data.max_corrupt allows {self.config.max_corrupt}: "
                        f"{', '.join(self.corrupt)}. The last: {error}"
                    ) from error
            plan.clip[slot] = (plan.clip[slot] + 1) % len(source.index)
            sets = np.flatnonzero(source.caption_weights[:, plan.clip[slot]])
            plan.caption[slot] = sets[0] if len(sets) else -1
        raise ShardError(
            f"{source.index.folder}: all of its {len(source.index)} clips are damaged; run `uniform shards lint`"
        )

    def _texts(self, plan: Plan) -> list[Text]:
        texts: list[Text | None] = [None] * len(plan.positions)
        for number, store in enumerate(self._stores):
            slots = np.flatnonzero((plan.source == number) & (plan.caption >= 0))
            for slot, text in zip(slots.tolist(), store.texts(plan.clip[slots], plan.caption[slots]), strict=True):
                texts[slot] = text
        on_gpu = self.config.residency == "gpu"
        absent: Text = (  # one zero token; has_text says that it is none
            torch.zeros((1, self.text_width), dtype=torch.float16, device=self.device)
            if on_gpu
            else np.zeros((1, self.text_width), dtype=np.float16)
        )
        return [absent if text is None else text for text in texts]

    def _first_text_width(self) -> int:
        for source, store in zip(self.mixture.sources, self._stores, strict=True):
            captions, clips = np.nonzero(source.caption_weights)
            if len(clips):
                return int(store.texts(clips[:1], captions[:1])[0].shape[-1])
        raise ShardError(f"{self.mixture.first.folder}: no clip of the mixture has a text. Name another caption set.")

    def _card_statistics(self, modality: Literal["video", "audio"]) -> tuple[Tensor, Tensor]:
        card, spec = self.mixture.first.card, self.mixture.first.spec
        codec = card.video if modality == "video" else card.audio
        channels, *rest = spec.video_latent if modality == "video" else spec.audio_latent
        numbers = []
        for name in ("shift", "scale"):
            if len(codec[name]) != channels:
                raise ShardError(
                    f"{self.mixture.first.folder}: card.json gives {len(codec[name])} numbers as {name} of the "
                    f"{modality} codec, its latents have {channels} channels. Make the shards again."
                )
            shape = (1, channels, *[1] * len(rest))
            numbers.append(torch.tensor(codec[name], dtype=torch.float32, device=self.device).reshape(shape))
        return numbers[0], numbers[1]

    def _normalise(self, clean: Tensor, modality: str) -> Tensor:
        shift, scale = self._scales[modality]
        return clean.sub_(shift).div_(scale)


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream on which batches are copied while the model computes."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
