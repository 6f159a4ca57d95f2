"""Compute the features that are not there yet: each clip is decoded once for all extractors that still lack it.

Decoding runs in sandboxed child processes, one a worker, ahead of the networks. Every 256 clips a part is written for
each stream; a stopped run goes on with the clips that no part holds.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniform.errors import InputError, MediaError
from uniform.evaluation.clip_files import PASSING_CODES
from uniform.evaluation.extractors.contract import Extractor
from uniform.evaluation.feature_store import PART_CLIPS, FeatureRow, FeatureStore
from uniform.evaluation.measures import measure
from uniform.evaluation.protocol import Reading
from uniform.evaluation.reading import (
    DecodedClip,
    Reconstruct,
    chosen_frames,
    decode,
    prepared_waveform,
    through_codec,
    worst,
)
from uniform.evaluation.streams import Extractors, Stream
from uniform.media.sandbox import MediaSandbox

log = logging.getLogger(__name__)

READ_AHEAD = 2
"""Clips in memory for each worker."""
SILENCE = "silence"
"""Content of a silent clip: all are alike, so a network without video hears one of them."""


@dataclass(frozen=True, kw_only=True)
class ClipJob:
    """One clip whose features are wanted."""

    content: str
    """The file's SHA-256 and the clip's start."""
    path: Path
    start_ms: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """The codecs of the row "codec reconstruction"."""

    name: str
    """With everything that the reconstruction depends on: part of the key of its features."""
    rate_hz: int
    reconstruct: Reconstruct


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one stream's features of one variant of the clips go."""

    stream: Stream
    variant: str
    """"" as read, "worst", or "codec-..."."""
    store: FeatureStore

    def content(self, job: ClipJob) -> str:
        """Key of a clip's row."""
        if self.variant == "worst" and not self.stream.video:
            return SILENCE
        if self.stream.text:
            from uniform.fingerprint import digest

            return f"{job.content}-{digest(job.text)}"
        return job.content


@dataclass(kw_only=True)
class ExtractionTimes:
    """How a run spent its time."""

    decoded: int = 0
    """Media files that were opened."""
    waited_s: float = 0.0
    """The networks waited for decoded clips."""
    networks_s: float = 0.0
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Clips that the disk did not give this time, by content: code and reason. Not kept."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What one target's extractor gets of one clip, or why it gets nothing."""

    frames: Tensor | None = None
    waveform: Tensor | None = None
    arrays: Mapping[str, np.ndarray] | None = None
    """Of a measure: already done."""
    code: str = "ok"
    reason: str = ""


def extract(
    jobs: Sequence[ClipJob],
    targets: Sequence[Target],
    reading: Reading,
    extractors: Extractors,
    sandboxes: Sequence[MediaSandbox],
    *,
    want_video: bool,
    want_audio: bool,
    codec: Codec | None = None,
    part_clips: int = PART_CLIPS,
    progress: Callable[[int, int], None],
) -> ExtractionTimes:
    """Bring every target's store up to date for `jobs`. Raises what the extractors raise at opening."""
    times = ExtractionTimes()
    pending = [job for job in dict.fromkeys(jobs) if any(target.content(job) not in target.store for target in targets)]
    done = len(jobs) - len(pending)
    progress(done, len(jobs))
    worker = _Worker(reading, targets, extractors, codec, want_video=want_video, want_audio=want_audio)
    with ThreadPoolExecutor(len(sandboxes)) as pool:
        for begin in range(0, len(pending), part_clips):
            part = _Part(targets, extractors)
            for job, prepared in _ahead(pool, worker, pending[begin : begin + part_clips], sandboxes, times):
                started = time.monotonic()
                if isinstance(prepared, MediaError):
                    part.drop(job, prepared, times)
                else:
                    part.add(job, prepared)
                times.networks_s += time.monotonic() - started
                done += 1
                progress(done, len(jobs))
            started = time.monotonic()
            part.finish()
            times.networks_s += time.monotonic() - started
    return times


class _Worker:
    """Decodes a clip and prepares it for every target that lacks it. Called from several threads."""

    def __init__(
        self,
        reading: Reading,
        targets: Sequence[Target],
        extractors: Extractors,
        codec: Codec | None,
        *,
        want_video: bool,
        want_audio: bool,
    ) -> None:
        self._reading, self._targets, self._extractors, self._codec = reading, targets, extractors, codec
        self._want_video, self._want_audio = want_video, want_audio
        self._lock = threading.Lock()

    def __call__(self, job: ClipJob, sandbox: MediaSandbox) -> "dict[int, _Prepared] | MediaError":
        try:
            clip = decode(
                sandbox,
                job.path,
                job.start_ms,
                self._reading,
                want_video=self._want_video,
                want_audio=self._want_audio,
            )
        except MediaError as error:
            return error
        variants: dict[str, DecodedClip | MediaError] = {"": clip}
        prepared = {}
        for number, target in enumerate(self._targets):
            if target.content(job) in target.store:
                continue
            if target.variant not in variants:
                variants[target.variant] = self._variant(clip, target.variant)
            if target.stream.text and not job.text:
                prepared[number] = _Prepared(code="no_text", reason="the set gives no text for this clip")
                continue
            prepared[number] = self._prepare(target.stream, variants[target.variant])
        return prepared

    def _variant(self, clip: DecodedClip, variant: str) -> "DecodedClip | MediaError":
        if variant == "worst":
            return worst(clip)
        assert self._codec is not None
        with self._lock:  # one network, several threads
            return through_codec(clip, self._codec.reconstruct, self._codec.rate_hz)

    def _prepare(self, stream: Stream, clip: "DecodedClip | MediaError") -> _Prepared:
        try:
            if isinstance(clip, MediaError):
                raise clip
            if stream.is_measure:
                chosen = replace(clip, frames=clip.frames if stream.video else None)
                return _Prepared(arrays=measure(stream.name, chosen))
            with self._lock:
                extractor = self._extractors.open(stream.name)
            frames = None if extractor.video is None else chosen_frames(clip, extractor.video, stream.frames)
            waveform = None if extractor.audio is None else prepared_waveform(clip, extractor.audio, self._reading)
            return _Prepared(frames=frames, waveform=waveform)
        except MediaError as error:
            return _Prepared(code=error.code, reason=error.reason)


class _Part:
    """Rows of one part of clips, for all targets; networks run as soon as a batch is full."""

    def __init__(self, targets: Sequence[Target], extractors: Extractors) -> None:
        self._targets, self._extractors = targets, extractors
        self._rows: list[list[FeatureRow]] = [[] for _ in targets]
        self._waiting: list[list[tuple[ClipJob, _Prepared]]] = [[] for _ in targets]
        self._taken: list[set[str]] = [set() for _ in targets]

    def add(self, job: ClipJob, prepared: Mapping[int, _Prepared]) -> None:
        for number, one in prepared.items():
            content = self._targets[number].content(job)
            if content in self._taken[number]:
                continue
            self._taken[number].add(content)
            if one.code != "ok":
                self._rows[number].append(FeatureRow(content=content, arrays={}, code=one.code, reason=one.reason))
            elif one.arrays is not None:
                self._rows[number].append(FeatureRow(content=content, arrays=one.arrays))
            else:
                self._waiting[number].append((job, one))
                if len(self._waiting[number]) >= self._extractors.batch_clips:
                    self._run(number)

    def drop(self, job: ClipJob, error: MediaError, times: ExtractionTimes) -> None:
        if error.code in PASSING_CODES:
            times.failed[job.content] = (error.code, error.reason)
            return
        for number, target in enumerate(self._targets):
            content = target.content(job)
            if content not in target.store and content != SILENCE and content not in self._taken[number]:
                self._taken[number].add(content)
                self._rows[number].append(FeatureRow(content=content, arrays={}, code=error.code, reason=error.reason))

    def finish(self) -> None:
        """Run what still waits, then write a part for each target."""
        for number, target in enumerate(self._targets):
            self._run(number)
            target.store.add(self._rows[number])

    def _run(self, number: int) -> None:
        waiting, self._waiting[number] = self._waiting[number], []
        target = self._targets[number]
        for batch in _alike(waiting):
            extractor = self._extractors.open(target.stream.name)
            for (job, _), arrays in zip(batch, _features(extractor, batch, target.stream.text), strict=True):
                content = target.content(job)
                if isinstance(arrays, str):
                    row = FeatureRow(content=content, arrays={}, code="refused", reason=arrays)
                else:
                    row = FeatureRow(content=content, arrays=arrays)
                self._rows[number].append(row)


def _ahead(
    pool: ThreadPoolExecutor,
    worker: _Worker,
    jobs: Sequence[ClipJob],
    sandboxes: Sequence[MediaSandbox],
    times: ExtractionTimes,
) -> "Iterator[tuple[ClipJob, dict[int, _Prepared] | MediaError]]":
    """The jobs in their order, decoded ahead of need by all workers."""
    limit = READ_AHEAD * len(sandboxes)
    running: list[tuple[ClipJob, Future[dict[int, _Prepared] | MediaError]]] = []
    queue = iter(enumerate(jobs))

    def start_one() -> None:
        for number, job in queue:
            running.append((job, pool.submit(worker, job, sandboxes[number % len(sandboxes)])))
            return

    for _ in range(limit):
        start_one()
    while running:
        job, future = running.pop(0)
        started = time.monotonic()
        prepared = future.result()
        times.waited_s += time.monotonic() - started
        times.decoded += 1
        start_one()
        yield job, prepared


def _alike(waiting: "list[tuple[ClipJob, _Prepared]]") -> "list[list[tuple[ClipJob, _Prepared]]]":
    """Clips of equal shapes together."""
    groups: dict[tuple[object, ...], list[tuple[ClipJob, _Prepared]]] = {}
    for job, one in waiting:
        shape = tuple(None if part is None else tuple(part.shape) for part in (one.frames, one.waveform))
        groups.setdefault(shape, []).append((job, one))
    return list(groups.values())


def _features(
    extractor: Extractor, batch: "Sequence[tuple[ClipJob, _Prepared]]", text: bool
) -> list[dict[str, np.ndarray] | str]:
    """Arrays of each clip of a batch, or why the extractor refuses it."""
    prepared = [one for _, one in batch]
    try:
        found = extractor.features(
            frames=None if prepared[0].frames is None else torch.stack([_given(one.frames) for one in prepared]),
            waveform=None if prepared[0].waveform is None else torch.stack([_given(one.waveform) for one in prepared]),
            texts=[job.text for job, _ in batch] if text else None,
        )
    except InputError as error:
        if len(batch) == 1:
            return [str(error)]
        return [arrays for one in batch for arrays in _features(extractor, [one], text)]
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
    results: list[dict[str, np.ndarray] | str] = []
    for row in range(len(batch)):
        own = {name: array[row] for name, array in arrays.items()}
        broken = [name for name, array in own.items() if not np.isfinite(array).all()]
        results.append(f"{extractor.name}: {', '.join(broken)} is not finite" if broken else own)
    return results


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
