"""`evaluate`: two sets of clips and a protocol in; result.json, clips.parquet and index.html out.

Stages, each kept on disk as it goes: the files' digests and headers, features, then the arithmetic in seconds. A second
run opens no media file, and other seeds or draws compute no feature.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from uniform.errors import InputError, WeightsError
from uniform.evaluation.clip_files import FileState, inspect, open_sandboxes
from uniform.evaluation.extract import Codec, ExtractionTimes, Target, extract
from uniform.evaluation.feature_store import PART_CLIPS, FeatureStore
from uniform.evaluation.metric_names import Metric
from uniform.evaluation.metric_values import Arrays
from uniform.evaluation.protocol import Protocol, ProtocolFile, Row
from uniform.evaluation.records import ClipRecord, Drop, Side, job_of, refuse_unequal_durations, without_partners
from uniform.evaluation.sets import ClipSet, read_set, require_join
from uniform.evaluation.streams import Extractors, Stream, StreamPlan, plan_streams, require_known
from uniform.evaluation.table import Features, Member, Table, make_table
from uniform.fingerprint import digest
from uniform.media.sandbox import MediaSandbox

Progress = Callable[[str, int, int], None]
"""Stage, done, total."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate; nothing here changes what a number means, but for `codec`."""

    weights: Path = Path("weights")
    """Folder of the published weights files."""
    device: str = "cpu"
    workers: int = 2
    """Processes that decode."""
    root: Path | None = None
    """Folder that the paths of lists may lie in."""
    allow_unequal: bool = False
    skip_missing: bool = False
    """Leave out metrics whose network or library is not there, and name them."""
    require_known: bool = False
    """Refuse weights whose digest no publisher states."""
    codec: Codec | None = None
    reference: Path | None = None
    """More real clips, for instance a training split: distances from them stand in rows of their own."""
    part_clips: int = PART_CLIPS
    cache: Path | None = None
    """Folder for features, in place of the ones beside the sets."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that a run found."""

    protocol: ProtocolFile
    metrics: tuple[Metric, ...]
    """Those that could be computed."""
    plan: StreamPlan
    generated: tuple[ClipRecord, ...]
    real: tuple[ClipRecord, ...]
    reference: tuple[ClipRecord, ...]
    places: Mapping[Side, str]
    table: Table
    rows: tuple[Row, ...]
    alignment: Mapping[Member, Arrays]
    """Onsets and motion of generated clips, where the protocol has AV-Align."""
    features: Features
    """Of kept clips, by metric and row."""
    device: str
    codec: str
    times: ExtractionTimes
    wall_s: float
    stage_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def drops(self) -> tuple[Drop, ...]:
        """Of both sides."""
        return tuple(
            record.drop for record in (*self.generated, *self.real, *self.reference) if record.drop is not None
        )


def evaluate(
    samples: Path,
    real: Path,
    protocol: ProtocolFile,
    options: Options,
    *,
    progress: Progress,
    given: Extractors | None = None,
) -> Evaluation:
    """Compare two sets of clips under a protocol.

    Args:
        samples, real: folders or lists; see `sets.read_set`.
        progress: called with a stage, how many of its items are done, and how many there are.
        given: extractors of one's own, in place of those of the catalogue.
    Raises: InputError for sets that cannot be compared; WeightsError, ConfigError for networks that cannot be run.
    """
    started = time.monotonic()
    rules = protocol.protocol
    sets = _sets({"generated": samples, "real": real, "reference": options.reference}, rules, options)
    both = require_join(
        sets["generated"], sets["real"], same_clips=rules.sets.same_clips, allow_unequal=options.allow_unequal
    )
    extractors = given or Extractors(options.weights, options.device)
    plan = plan_streams(
        rules.chosen,
        rules.reading,
        extractors,
        need_all=not options.skip_missing,
        video=rules.needs_video,
        audio=rules.needs_audio,
    )
    require_known(plan, refuse=options.require_known)
    metrics = tuple(metric for metric in rules.chosen if metric.extractor not in plan.unavailable)
    _require_metrics(metrics, plan, protocol)
    rows = rules.rows_with(codec=options.codec is not None, reference=options.reference is not None)
    run = _Run(rules, metrics, plan, options, extractors, rows, progress)
    with open_sandboxes(options.workers) as sandboxes:
        sides = run.read(sets, both, sandboxes)
    features = run.features(sides)
    table, alignment = run.table(features)
    return Evaluation(
        protocol=protocol,
        metrics=metrics,
        plan=plan,
        generated=sides["generated"],
        real=sides["real"],
        reference=sides.get("reference", ()),
        places={"generated": str(samples), "real": str(real), "reference": str(options.reference)},
        table=table,
        rows=rows,
        alignment=alignment,
        features=features,
        device=options.device,
        codec="" if options.codec is None else options.codec.name,
        times=run.times,
        wall_s=time.monotonic() - started,
        stage_s=run.stage_s,
    )


def _require_metrics(metrics: Sequence[Metric], plan: StreamPlan, protocol: ProtocolFile) -> None:
    if not metrics:
        why = "; ".join(plan.unavailable.values())
        raise WeightsError(f"no metric of {protocol.name} can be computed: {why}. See 'uniform evaluate doctor'.")


def _sets(places: Mapping[Side, Path | None], rules: Protocol, options: Options) -> dict[Side, ClipSet]:
    """The clips of every side that is given."""
    audio_only = not rules.needs_video
    return {
        side: read_set(place, side, root=options.root, audio_only=audio_only)
        for side, place in places.items()
        if place is not None
    }


class _Run:
    """The stages of one evaluation."""

    def __init__(
        self,
        protocol: Protocol,
        metrics: Sequence[Metric],
        plan: StreamPlan,
        options: Options,
        extractors: Extractors,
        rows: Sequence[Row],
        progress: Progress,
    ) -> None:
        self._protocol, self._metrics, self._plan, self._options = protocol, metrics, plan, options
        self._extractors, self._rows, self._progress = extractors, rows, progress
        self._stores: dict[tuple[str, str, str], FeatureStore] = {}
        self.times = ExtractionTimes()
        self.stage_s: dict[str, float] = {}

    def read(
        self, given: Mapping[Side, ClipSet], both: Sequence[str], sandboxes: Sequence[MediaSandbox]
    ) -> dict[Side, tuple[ClipRecord, ...]]:
        """Bring files and features up to date, and find out which clips count."""
        wanted = set(both)
        sets: dict[Side, ClipSet] = {}
        states: dict[Side, list[FileState]] = {}
        for key, clips in given.items():
            kept = clips.clips
            if wanted and key != "reference":
                kept = tuple(clip for clip in kept if clip.clip_id in wanted)
            sets[key] = ClipSet(name=key, place=clips.place, clips=kept)
            started = time.monotonic()
            states[key], opened = inspect(
                sets[key],
                self._cache(clips),
                workers=len(sandboxes),
                progress=lambda done, total, key=key: self._progress(f"{key}: files", done, total),  # type: ignore[misc]
                sandboxes=sandboxes,
            )
            self.times.decoded += opened
            self.stage_s[f"{key}: files"] = time.monotonic() - started
        if not self._options.allow_unequal:
            refuse_unequal_durations(self._protocol.reading.duration_s, sets, states)
        records: dict[Side, tuple[ClipRecord, ...]] = {}
        for key, clips in sets.items():
            self._extract(key, clips, states[key], sandboxes)
            records[key] = self._records(key, clips, states[key])
        return records if not self._protocol.sets.same_clips else without_partners(records)

    def features(self, sides: Mapping[Side, Sequence[ClipRecord]]) -> Features:
        """Access to the features of the clips that count. Raises InputError where fewer than 2 are left on a side."""
        kept = {side: [record for record in records if record.drop is None] for side, records in sides.items()}
        for side, records in kept.items():
            if len(records) < 2:
                counts = Counter(record.drop.code for record in sides[side] if record.drop is not None)
                raise InputError(
                    f"{len(records)} of {len(sides[side])} {side} clips are left ({dict(counts)}); wanted 2 or more"
                )
        cached: dict[tuple[str, str], dict[Member, Arrays]] = {}

        def features(metric: Metric, row: Row) -> Mapping[Member, Arrays]:
            stream = self._plan.of(metric)
            key = (stream.key, row)
            if key not in cached:
                if any(other != stream.key for other, _ in cached):
                    cached.clear()
                cached[key] = self._features(stream, row, kept)
            return cached[key]

        return features

    def table(self, features: Features) -> tuple[Table, dict[Member, Arrays]]:
        """The arithmetic, and the times behind AV-Align for the page."""
        started = time.monotonic()
        table = make_table(
            self._protocol,
            self._metrics,
            features,
            self._rows,
            lambda done, total: self._progress("arithmetic", done, total),
        )
        self.stage_s["arithmetic"] = time.monotonic() - started
        shown = next((metric for metric in self._metrics if metric.form == "av_align"), None)
        return table, {} if shown is None else dict(features(shown, "generated"))

    def _features(self, stream: Stream, row: Row, kept: Mapping[Side, Sequence[ClipRecord]]) -> dict[Member, Arrays]:
        side: Side = row if row in ("generated", "reference") else "real"
        variant = self._variant(row)
        store = self._store(side, stream, variant)
        target = Target(stream=stream, variant=variant, store=store)
        found = [
            (record, target.content(job_of(record)))
            for record in kept[side]
            if target.content(job_of(record)) in store and store.drop(target.content(job_of(record))) is None
        ]
        outputs = self._outputs(stream)
        arrays = store.read([content for _, content in found], outputs)
        return {record.member: array for (record, _), array in zip(found, arrays, strict=True)}

    def _outputs(self, stream: Stream) -> list[str]:
        chosen = [metric.outputs for metric in self._metrics if self._plan.of(metric).key == stream.key]
        return sorted({output for outputs in chosen for output in outputs})

    def _variant(self, row: Row) -> str:
        if row == "worst":
            return "worst"
        return f"codec-{digest(self._options.codec.name)}" if row == "codec" and self._options.codec else ""

    def _cache(self, clips: ClipSet) -> Path:
        if self._options.cache is not None:
            return self._options.cache / digest(str(clips.place.absolute()))
        place = clips.cache
        writable = os.access(place if place.exists() else place.parent, os.W_OK)
        if not writable:
            raise InputError(
                f"{clips.name}: features are kept in {place}, which cannot be written. Name another with --cache."
            )
        return place

    def _store(self, side: Side, stream: Stream, variant: str) -> FeatureStore:
        return self._stores[side, stream.key, variant]

    def _extract(
        self, side: Side, clips: ClipSet, states: Sequence[FileState], sandboxes: Sequence[MediaSandbox]
    ) -> None:
        started = time.monotonic()
        cache = self._cache(clips)
        variants = [""]
        if side == "real":
            variants += [self._variant(row) for row in ("codec", "worst") if row in self._rows]
        targets = []
        for variant in variants:
            for stream in self._plan.streams.values():
                if variant and stream is self._plan.levels:
                    continue
                store = stream.store(cache, variant)
                self._stores[side, stream.key, variant] = store
                targets.append(Target(stream=stream, variant=variant, store=store))
        jobs = [
            job_of(ClipRecord(clip=clip, state=state))
            for clip, state in zip(clips.clips, states, strict=True)
            if state.usable
        ]
        found = extract(
            jobs,
            targets,
            self._protocol.reading,
            self._extractors,
            sandboxes,
            want_video=self._protocol.needs_video,
            want_audio=self._protocol.needs_audio,
            codec=self._options.codec,
            part_clips=self._options.part_clips,
            progress=lambda done, total: self._progress(f"{side}: features", done, total),
        )
        self.times.decoded += found.decoded
        self.times.waited_s += found.waited_s
        self.times.networks_s += found.networks_s
        self.times.failed.update(found.failed)
        self.stage_s[f"{side}: features"] = time.monotonic() - started

    def _records(self, side: Side, clips: ClipSet, states: Sequence[FileState]) -> tuple[ClipRecord, ...]:
        store = self._store(side, self._plan.levels, "")
        records = []
        for clip, state in zip(clips.clips, states, strict=True):
            record = ClipRecord(clip=clip, state=state)
            why = None if state.usable else (state.code, state.reason)
            why = why or self.times.failed.get(record.content) or store.drop(record.content)
            if why is not None:
                drop = Drop(side=side, clip_id=clip.clip_id, sample=clip.sample, code=why[0], reason=why[1])
                record = replace(record, drop=drop)
            records.append(record)
        kept = [record for record in records if record.drop is None]
        needs = (("rms_dbfs", self._protocol.needs_audio), ("motion", self._protocol.needs_video))
        levels = store.read([record.content for record in kept], [name for name, needed in needs if needed])
        found = iter(levels)
        return tuple(record if record.drop is not None else _with_levels(record, next(found)) for record in records)


def _with_levels(record: ClipRecord, levels: Arrays) -> ClipRecord:
    numbers = {name: float(array[0]) for name, array in levels.items()}
    return replace(record, rms_dbfs=numbers.get("rms_dbfs"), motion=numbers.get("motion"))
