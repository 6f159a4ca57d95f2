"""Which features an evaluation needs, under which keys they are kept, and which weights stand behind them."""

import importlib
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniform.errors import ConfigError, WeightsError
from uniform.evaluation.extractors.catalogue import (
    ExtractorEntry,
    extractor_entry,
    find_weights,
    open_extractor,
    weights_of,
    weights_sha256,
)
from uniform.evaluation.feature_store import FeatureStore
from uniform.evaluation.measures import CODE_VERSIONS, LEVELS, MEASURES
from uniform.evaluation.metric_names import Metric
from uniform.evaluation.protocol import Reading
from uniform.fingerprint import digest

if TYPE_CHECKING:
    from uniform.evaluation.extractors.contract import Extractor

log = logging.getLogger(__name__)

ACCELERATOR_BATCH_CLIPS = 8
READER_VERSION = 1
"""Raised when `reading` gives other frames or waveforms."""
_PACKAGE = "uniform.evaluation.extractors"


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """A weights file behind the numbers."""

    extractor: str
    file: str
    sha256: str
    known: bool
    """The digest is the published one; otherwise it is recorded and nobody vouches for it."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Features of one extractor or measure under one reading rule."""

    name: str
    """Of the extractor or measure."""
    frames: int | None
    video: bool
    audio: bool
    text: bool
    key: str
    """Folder of its features inside a cache."""

    @property
    def is_measure(self) -> bool:
        """Whether no network is needed."""
        return self.name in MEASURES

    def store(self, cache: Path, variant: str = "") -> FeatureStore:
        """Its features of a set, as read, or after what `variant` names was done to the clips."""
        return FeatureStore(cache / (f"{self.key}-{variant}" if variant else self.key))


class Extractors:
    """The extractors of one evaluation. A network is opened when the first clip needs it.

    Args:
        weights: folder of the published files.
        device: as torch names it.
        given: opened extractors by name, in place of the catalogue's: for extractors of one's own.
    """

    def __init__(self, weights: Path, device: str = "cpu", given: "Mapping[str, Extractor] | None" = None) -> None:
        self._weights, self._device = weights, device
        self._open: dict[str, Extractor] = dict(given or {})
        self._given = frozenset(given or {})

    @property
    def batch_clips(self) -> int:
        """Clips that go to a network together: on a CPU one by one, which is as fast and takes the least memory."""
        return 1 if self._device == "cpu" else ACCELERATOR_BATCH_CLIPS

    def open(self, name: str) -> "Extractor":
        """The extractor. Raises ConfigError, WeightsError."""
        if name not in self._open:
            self._open[name] = open_extractor(name, self._weights, self._device)
        return self._open[name]

    def problem(self, name: str) -> str | None:
        """None where the extractor can be opened, as far as its files show; otherwise why not."""
        if name in self._given:
            return None
        if name in MEASURES:
            from uniform.evaluation.av_align_published import available
            from uniform.evaluation.metric_names import ALIGNMENT

            return available() if name == ALIGNMENT else None
        try:
            entry = extractor_entry(name)
            module = importlib.import_module(f"{_PACKAGE}.{entry.module}")
            if entry.weights is not None:
                find_weights(weights_of(entry), self._weights)
            check = getattr(module, "problem", None)
            return None if check is None else check()
        except (ConfigError, WeightsError, ImportError) as error:
            return str(error)

    def weights_records(self, name: str) -> tuple[WeightsRecord, ...]:
        """The files behind an extractor, with digests. Raises ConfigError, WeightsError."""
        if name in MEASURES:
            return ()
        if name in self._given:
            return tuple(
                WeightsRecord(extractor=name, file=file.name, sha256=file.sha256, known=file.known)
                for file in self._open[name].weights
            )
        entry = extractor_entry(name)
        if entry.weights is None:
            return self._carried(entry)
        published = {file.name: file for file in weights_of(entry).files}
        return tuple(
            WeightsRecord(extractor=name, file=file, sha256=sha256, known=_known(published.get(file), sha256))
            for file, sha256 in weights_sha256(name, self._weights).items()
        )

    def code_version(self, name: str) -> int:
        """Of the extractor's code, without opening its network."""
        if name in MEASURES:
            return CODE_VERSIONS[name]
        if name in self._open:
            return self._open[name].code_version
        module = importlib.import_module(f"{_PACKAGE}.{extractor_entry(name).module}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and hasattr(kind, "features"):
                version = getattr(kind, "code_version", None)
                if isinstance(version, int):
                    return version
        return self.open(name).code_version

    def modality(self, name: str) -> tuple[str, ...]:
        """What it reads: video, audio, text."""
        if name in self._given:
            one = self._open[name]
            return tuple(kind for kind, rule in (("video", one.video), ("audio", one.audio)) if rule is not None)
        if name == LEVELS or name in MEASURES:
            return ("video", "audio")
        return extractor_entry(name).modality

    def _carried(self, entry: ExtractorEntry) -> tuple[WeightsRecord, ...]:
        """Of an extractor whose package brings the weights: it has to be opened to say which."""
        return tuple(
            WeightsRecord(extractor=entry.name, file=file.name, sha256=file.sha256, known=file.known)
            for file in self.open(entry.name).weights
        )


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The streams of an evaluation, and the weights behind them."""

    streams: Mapping[tuple[str, int | None], Stream]
    """By extractor and number of frames."""
    weights: tuple[WeightsRecord, ...]
    unavailable: Mapping[str, str]
    """Extractors that cannot be run here, and why."""

    @cached_property
    def levels(self) -> Stream:
        """The measure that every clip has."""
        return self.streams[LEVELS, None]

    def of(self, metric: Metric) -> Stream:
        """What a metric reads."""
        return self.streams[metric.extractor, metric.frames]


def plan_streams(
    metrics: Sequence[Metric], reading: Reading, extractors: Extractors, *, need_all: bool, video: bool, audio: bool
) -> StreamPlan:
    """The streams that `metrics` read.

    Args:
        need_all: an extractor that cannot be run is an error; otherwise its metrics are left out, and named.
        video, audio: what the protocol's clips are decoded to.
    Raises: ConfigError, WeightsError.
    """
    wanted = list(dict.fromkeys([(metric.extractor, metric.frames) for metric in metrics]))
    unavailable = {name: why for name in dict.fromkeys(name for name, _ in wanted) if (why := extractors.problem(name))}
    if unavailable and need_all:
        raise WeightsError(
            f"{len(unavailable)} of the networks cannot be run: "
            + "; ".join(f"{name}: {why}" for name, why in unavailable.items())
            + ". See 'uniform evaluate doctor', or leave their metrics out with --metrics or --skip-missing."
        )
    with_text = {metric.extractor for metric in metrics if metric.reads_text}
    records = {name: extractors.weights_records(name) for name, _ in wanted if name not in unavailable}
    streams = {
        (name, frames): _stream(name, frames, reading, extractors, records[name], text=name in with_text)
        for name, frames in wanted
        if name not in unavailable
    }
    streams[LEVELS, None] = Stream(
        name=LEVELS, frames=None, video=video, audio=audio, text=False, key=_levels_key(reading, video, audio)
    )
    return StreamPlan(
        streams=streams,
        weights=tuple(record for several in records.values() for record in several),
        unavailable=unavailable,
    )


def require_known(plan: StreamPlan, *, refuse: bool) -> None:
    """Warn of weights whose digest no publisher states. Raises WeightsError for them where `refuse` is set."""
    unknown = [record for record in plan.weights if not record.known]
    if unknown and refuse:
        raise WeightsError(
            "; ".join(f"{record.extractor}: {record.file} has sha256 {record.sha256}" for record in unknown)
            + ": no publisher states these digests, and --require-known was given. Leave it out to record them only."
        )
    for record in unknown:
        log.warning("%s: %s has sha256 %s, which no publisher states", record.extractor, record.file, record.sha256)


def _stream(
    name: str,
    frames: int | None,
    reading: Reading,
    extractors: Extractors,
    weights: Iterable[WeightsRecord],
    *,
    text: bool,
) -> Stream:
    modality = extractors.modality(name)
    video, audio = "video" in modality, "audio" in modality
    key = digest(
        {
            "reader": READER_VERSION,
            "reading": _relevant(reading, video=video, audio=audio),
            "code_version": extractors.code_version(name),
            "weights": sorted(record.sha256 for record in weights),
            "frames": frames,
            "text": text,
        }
    )
    suffix = f"-{frames}f" if frames is not None else ""
    return Stream(name=name, frames=frames, video=video, audio=audio, text=text, key=f"{name}{suffix}-{key}")


def _levels_key(reading: Reading, video: bool, audio: bool) -> str:
    relevant = {"reading": _relevant(reading, video=video, audio=audio), "code_version": CODE_VERSIONS[LEVELS]}
    return f"{LEVELS}-{digest({**relevant, 'reader': READER_VERSION})}"


def _relevant(reading: Reading, *, video: bool, audio: bool) -> dict[str, Any]:
    """The part of the reading rule that changes what an extractor sees: a picture's size does not change a sound."""
    rule = asdict(reading)
    keys = ["duration_s", *(["fps", "size_px", "fit"] if video else []), *(["channels", "remove_dc"] if audio else [])]
    return {key: rule[key] for key in keys}


def _known(published: Any, sha256: str) -> bool:
    if published is None:
        return False
    if published.sha256 is not None:
        return bool(published.sha256 == sha256)
    return published.sha256_head is not None and sha256.startswith(published.sha256_head)
