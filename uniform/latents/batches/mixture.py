"""Several folders of shards as one endless, weighted, resumable sequence of samples.

A weight is a share of the samples. The shares become whole numbers of slots in a repeating pattern in which every
source is spread as evenly as can be; so the source of sample p, and how many samples that source gave before, follow
from p by a division and a look-up. Within a source, cursor c is position c % clips of epoch c // clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from uniform.errors import ConfigError, ShardError, SpecMismatchError
from uniform.latents.batches.order import keyed, permute, unpermute
from uniform.latents.batches.random_streams import Positions, Stream, choose, uniforms
from uniform.latents.format import identity, require_same
from uniform.latents.shards.index import Index, open_index
from uniform.latents.shards.remote import RemoteFolder, default_cache_folder, is_url

MAX_PATTERN = 1 << 16
"""Slots of the longest pattern; a share is exact to 1 / MAX_PATTERN."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One folder of latent shards in a mixture."""

    folder: str | Path
    """Folder with index.parquet, card.json and shards, or its fsspec URL (s3://, gs://, az://, hf://, https://)."""
    split: str | None = None
    """Only clips of this split; None takes all."""
    weight: float | None = None
    """Share of the samples, relative to the other sources; None is the number of clips."""
    captions: tuple[str, ...] = ()
    """Caption sets to draw from; empty takes all that the folder has."""
    caption_weights: tuple[float, ...] = ()
    """Relative share of each caption set; empty is equal shares."""
    missing_text: Literal["refuse", "drop"] = "refuse"
    """A clip without a text in any of the sets: refuse before step 0, or train it with the null caption."""
    windows: Literal["first", "all"] = "first"
    """Of clips with windows: always the first (paper, 4.1: the first 4 s), or one drawn for each sample."""
    posterior: Literal["mean", "sample"] = "mean"
    """The posterior's mean, or a sample of it, drawn anew each time; that needs the column of standard deviations."""

    def __post_init__(self) -> None:
        if not is_url(self.folder):
            object.__setattr__(self, "folder", Path(self.folder))  # as text, it came from a file or a command line
        if self.weight is not None and not (0 < self.weight < float("inf")):
            raise ConfigError(
                f"data.sources '{self.folder}': weight is {self.weight}; it must be above 0. "
                f"To leave a source out, remove its table."
            )
        if self.caption_weights and len(self.caption_weights) != len(self.captions):
            raise ConfigError(
                f"data.sources '{self.folder}': {len(self.caption_weights)} caption_weights for "
                f"{len(self.captions)} captions; name one weight for each caption set"
            )
        if any(not (0 < weight < float("inf")) for weight in self.caption_weights):
            raise ConfigError(f"data.sources '{self.folder}': caption_weights must all be above 0")


@dataclass(frozen=True)
class Source:
    """An opened source: its index and its caption sets."""

    config: SourceConfig
    index: Index
    captions: tuple[str, ...]
    caption_weights: npt.NDArray[np.float64]
    """(sets, clips): the set's share where the clip has a text in it, else 0."""

    @property
    def windows(self) -> int:
        """Windows of each clip that samples are drawn from."""
        return self.index.card.windows if self.config.windows == "all" else 1


@dataclass(frozen=True)
class Plan:
    """Source, clip, caption and window of each of N samples; every field is (N,)."""

    positions: Positions
    source: npt.NDArray[np.int64]
    clip: npt.NDArray[np.int64]
    """Row of the source's index."""
    epoch: npt.NDArray[np.int64]
    """Epoch of that source, from 0."""
    caption: npt.NDArray[np.int64]
    """Number in the source's caption sets; -1 where the clip has no text."""
    window: npt.NDArray[np.int64]
    """Window of the clip: the whole second at which it begins."""


PLAN_FIELDS = ("positions", "source", "clip", "epoch", "caption", "window")
BLOCK = 4096
"""Positions that `Mixture.span` plans at once."""


class Mixture:
    """The sample at every global position, as a pure function of the sources and the seed."""

    def __init__(self, configs: Sequence[SourceConfig], seed: int, cache_folder: Path | None = None) -> None:
        """Open and check all sources.

        Args:
            cache_folder: receives the index and the card of remote sources; None is `default_cache_folder`.
        Raises: ConfigError, ShardError, RemoteError, and SpecMismatchError where the folders' latents do not belong
            together.
        """
        if not configs:
            raise ConfigError("data.sources is empty; name at least one folder of latent shards")
        self.seed = seed
        self._blocks: dict[int, Plan] = {}
        self.sources = tuple(_open(config, cache_folder or default_cache_folder()) for config in configs)
        first = self.sources[0].index
        for source in self.sources[1:]:
            require_same(
                identity(source.index.card),
                identity(first.card),
                str(source.index.folder),
                f"All sources of a mixture must be made alike; the first is {first.folder}. "
                f"Make this folder again with the spec and codecs of the first.",
            )
        _require_same_text(self.sources)
        self.shares = _shares(self.sources)
        self.pattern, self.before, self.counts = _pattern(tuple(self.shares.tolist()))

    @property
    def first(self) -> Index:
        """The first source's index; its card's spec and codecs are those of all."""
        return self.sources[0].index

    @property
    def clips(self) -> int:
        """Clips of all sources."""
        return sum(len(source.index) for source in self.sources)

    @property
    def names(self) -> list[str]:
        """The display name of each source: its folder, with split or number where several are of one folder."""
        forms = [
            (str(source.index.folder), f"{source.index.folder} ({source.config.split})", f"{source.index.folder} #{n}")
            for n, source in enumerate(self.sources)
        ]
        columns = list(zip(*forms, strict=True))
        return [
            next(form for form, column in zip(own, columns, strict=True) if column.count(form) == 1) for own in forms
        ]

    def slots(self, positions: Positions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Source number and that source's cursor for each global position, (N,) each."""
        lap, slot = np.divmod(positions, len(self.pattern))
        source = self.pattern[slot]
        return source, lap * self.counts[source] + self.before[slot]

    def plan(self, positions: Positions) -> Plan:
        """Source, clip, caption and window of the samples at these global positions."""
        source, cursor = self.slots(positions)
        clip, epoch = np.zeros_like(cursor), np.zeros_like(cursor)
        caption, window = np.full_like(cursor, -1), np.zeros_like(cursor)
        for number, opened in enumerate(self.sources):
            rows = np.flatnonzero(source == number)
            if len(rows) == 0:
                continue
            clips = len(opened.index)
            epoch[rows], place = np.divmod(cursor[rows], clips)
            keys = keyed(self.seed, int(Stream.ORDER), number, epoch[rows])
            clip[rows] = permute(place, clips, keys)
            weights = opened.caption_weights[:, clip[rows]].T
            has = weights.sum(axis=1) > 0
            draws = uniforms(self.seed, Stream.CAPTION, positions[rows[has]])
            caption[rows[has]] = choose(draws, weights[has])
            if opened.windows > 1:
                draws = uniforms(self.seed, Stream.WINDOW, positions[rows])
                window[rows] = (draws * opened.windows).astype(np.int64)
        return Plan(positions, source, clip, epoch, caption, window)

    def span(self, begin: int, count: int) -> Plan:
        """`plan` of the positions from `begin` on, cut from large blocks: NumPy on short arrays is mostly overhead."""
        parts = []
        for block in range(begin // BLOCK, (begin + count - 1) // BLOCK + 1):
            whole = self._blocks.get(block)  # other threads may clear them at any moment
            if whole is None:
                whole = self.plan(np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int64))
                if len(self._blocks) >= 4:
                    self._blocks.clear()
                self._blocks[block] = whole
            low, high = max(begin - block * BLOCK, 0), min(begin + count - block * BLOCK, BLOCK)
            parts.append([getattr(whole, name)[low:high] for name in PLAN_FIELDS])
        return Plan(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def next_use(self, number: int, clips: npt.NDArray[np.int64], position: int) -> Positions:
        """The first global position from `position` on at which source `number` gives each of these clips, (N,)."""
        lap, slot = divmod(position, len(self.pattern))
        given = lap * self.counts[number] + int((self.pattern[:slot] == number).sum())
        size = len(self.sources[number].index)
        epoch, place = divmod(int(given), size)

        def place_in(epochs: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            return unpermute(of, size, keyed(self.seed, int(Stream.ORDER), number, epochs))

        epochs = np.full(len(clips), epoch, dtype=np.int64)
        places = place_in(epochs, clips)
        passed = places < place
        epochs[passed] += 1
        places[passed] = place_in(epochs[passed], clips[passed])
        laps, nth = np.divmod(epochs * size + places, self.counts[number])
        return laps * len(self.pattern) + np.flatnonzero(self.pattern == number)[nth]

    def epochs(self, position: int) -> dict[str, float]:
        """Epochs that each source has given before global position `position`, by `names`."""
        lap, slot = divmod(position, len(self.pattern))
        done = lap * self.counts + np.bincount(self.pattern[:slot], minlength=len(self.sources))
        return {
            name: float(count) / len(source.index)
            for name, source, count in zip(self.names, self.sources, done, strict=True)
        }


def _open(config: SourceConfig, cache_folder: Path) -> Source:
    folder = config.folder if isinstance(config.folder, Path) else RemoteFolder(config.folder, cache_folder)
    index = open_index(folder, config.split, stdev=config.posterior == "sample")
    captions = config.captions or tuple(index.texts)
    if not captions:
        raise ShardError(
            f"{config.folder}: has no caption set, and the model wants text. Add a caption stage and a text stage "
            f"to the recipe and run the pipeline again: latents that are there stay."
        )
    for name in captions:
        if name not in index.texts:
            known = ", ".join(index.texts) or "none"
            raise ConfigError(
                f"data.sources '{config.folder}': there is no caption set '{name}'; the folder has {known}"
            )
    weights = np.array(config.caption_weights or [1.0] * len(captions), dtype=np.float64)
    per_clip = weights[:, None] * index.has_text(captions)
    without = np.flatnonzero(per_clip.sum(axis=0) == 0)
    if len(without) and config.missing_text == "refuse":
        raise ShardError(
            f"{config.folder}: {len(without)} clips have no text in {', '.join(captions)}, the first is "
            f'{index.clip_ids[without[0]]}. Name another caption set, or set missing_text = "drop".'
        )
    return Source(config, index, captions, per_clip)


def _require_same_text(sources: Sequence[Source]) -> None:
    first: tuple[str, str] | None = None
    for source in sources:
        for name in source.captions:
            codec = source.index.card.texts.get(name, {}).get("codec", {}).get("fingerprint", "unknown")
            place = f"caption set '{name}' of {source.index.folder}"
            if first is not None and codec != first[0]:
                raise SpecMismatchError(
                    f"{place} was made by text codec {codec}, {first[1]} by {first[0]}. "
                    f"Name caption sets that were made by the same text codec, or encode the text again."
                )
            first = first or (codec, place)


def _shares(sources: Sequence[Source]) -> npt.NDArray[np.float64]:
    given = [source.config.weight for source in sources]
    if any(weight is None for weight in given) and any(weight is not None for weight in given):
        raise ConfigError("data.sources: give every source a weight, or none (then a source counts by its clips)")
    weights = [
        float(len(source.index)) if weight is None else weight for source, weight in zip(sources, given, strict=True)
    ]
    return np.array(weights) / sum(weights)


@lru_cache(maxsize=16)
def _pattern(
    shares: tuple[float, ...],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The repeating pattern: source of each slot, how often that source came before in it, and slots per source."""
    wanted = np.array(shares)
    length = _pattern_length(wanted)
    counts = np.floor(wanted * length + 0.5).astype(np.int64)
    while counts.sum() != length:  # largest remainder
        error = wanted * length - counts
        row = int(error.argmax() if counts.sum() < length else error.argmin())
        counts[row] += 1 if counts.sum() < length else -1
    if counts.min() < 1:
        raise ConfigError(
            f"data.sources: a weight is {wanted.min():.2e} of all; "
            f"the smallest that can be kept is {1 / MAX_PATTERN:.1e}"
        )
    source = np.repeat(np.arange(len(counts)), counts)
    nth = np.concatenate([np.arange(count) for count in counts])
    turn = np.lexsort((source, (nth + 0.5) / counts[source]))
    return source[turn].astype(np.int64), nth[turn].astype(np.int64), counts


def _pattern_length(shares: npt.NDArray[np.float64]) -> int:
    """The shortest pattern that holds the shares exactly, or MAX_PATTERN."""
    lengths = np.arange(len(shares), 4097)
    ideal = lengths[:, None] * shares
    exact = np.flatnonzero(np.abs(ideal - np.rint(ideal)).max(axis=1) < 1e-9 * lengths)
    return int(lengths[exact[0]]) if len(exact) else MAX_PATTERN
