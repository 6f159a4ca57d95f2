"""The arithmetic of an evaluation: rows by metrics, each cell with N and interval. Reads features, no media.

generated     the samples against the real clips
real          the real clips by themselves: what truth scores, for metrics of single clips and inception scores
real_halves   two disjoint halves of the real clips: the floor, at half of N
reference     the real clips against more real ones, for instance a training split; generated_reference: the samples
codec         the real clips after our codecs: the floor of any model of their latents
shuffled      each clip's video with another clip's audio, or another clip's partner: chance
worst         the real clips frozen and silent
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from uniform.errors import InputError
from uniform.evaluation.metric_names import AGAINST_REAL, DISTRIBUTION, Metric
from uniform.evaluation.metric_values import Arrays, SetValue, clip_value, pair_values, set_value
from uniform.evaluation.protocol import Protocol, Row
from uniform.evaluation.vectors import Estimate, mean_interval

Member = tuple[str, int]
"""A clip of a set: clip_id and sample."""
Features = Callable[[Metric, Row], Mapping[Member, Arrays]]
"""Features of a metric's extractor: of "generated", "real", "codec" or "worst" clips that have them."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table."""

    value: float | None
    """None where there is none; `notes` says why."""
    low: float | None = None
    """95% interval over clips."""
    high: float | None = None
    clips: int = 0
    vectors: int = 0
    std: float | None = None
    extrapolated: dict[str, float] | None = None
    at_floor: dict[str, float] | None = None
    """The same distance at the floor's N, which is the one to hold against the floor."""
    resolved: bool | None = None
    """False: no difference from the floor (or from chance) can be seen at this N."""
    left_out: int = 0
    """Clips for which the metric has no value."""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None."""
        plain = {key: _finite(value) for key, value in asdict(self).items()}
        empty = {key for key, value in plain.items() if value is None or value == []} | (
            {key for key in ("vectors", "left_out") if not plain[key]}
        )
        return {key: value for key, value in plain.items() if key not in empty or key == "value"}


@dataclass(kw_only=True)
class Table:
    """All cells, and the scores of single clips."""

    cells: dict[Row, dict[str, Cell]] = field(default_factory=dict)
    clip_scores: dict[str, dict[Member, float]] = field(default_factory=dict)
    """Of generated clips, by metric."""


def make_table(
    protocol: Protocol,
    metrics: Sequence[Metric],
    features: Features,
    rows: Sequence[Row],
    progress: Callable[[int, int], None],
) -> Table:
    """Every cell that `rows` and `metrics` have."""
    table = Table(cells={row: {} for row in rows})
    work = [(row, metric) for metric in metrics for row in rows]
    for number, (row, metric) in enumerate(work):
        maker = _Maker(protocol, metric, features)
        try:
            cell = maker.cell(row)
        except InputError as error:
            cell = Cell(value=None, notes=(str(error),))
        if cell is not None:
            table.cells[row][metric.name] = cell
        if row == "generated" and metric.per_clip:
            table.clip_scores[metric.name] = maker.scores
        progress(number + 1, len(work))
    for metric in metrics:
        _resolve(table, metric, protocol)
    return table


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation in which nothing stays in its place, int (count,). Of one element there is none: it stays."""
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return partner


class _Maker:
    """Cells of one metric."""

    def __init__(self, protocol: Protocol, metric: Metric, features: Features) -> None:
        self._protocol, self._metric, self._features = protocol, metric, features
        self._fps = float(protocol.reading.fps)
        self._statistics = protocol.statistics
        self.scores: dict[Member, float] = {}

    def cell(self, row: Row) -> Cell | None:
        if row in ("reference", "generated_reference"):
            return self._to_reference(row) if self._metric.form in DISTRIBUTION else None
        if self._metric.form in DISTRIBUTION:
            return self._distance(row)
        if self._metric.form == "inception":
            return None if row in ("real_halves", "shuffled") else self._inception(row)
        if self._metric.form in AGAINST_REAL:
            return None if row in ("real", "real_halves") else self._against_real(row)
        return None if row == "real_halves" else self._within(row)

    def _distance(self, row: Row) -> Cell | None:
        if row in ("real", "shuffled"):
            return None
        real = self._of("real")
        if row == "real_halves":
            first, second = halves(list(real), self._statistics.seed)
            value = set_value(
                self._metric, [real[m] for m in first], [real[m] for m in second], self._statistics, carry=True
            )
            return _set_cell(value, len(first))
        evaluated = _first_samples(self._of(row))
        real_ids = {clip_id for clip_id, _ in real}
        if self._protocol.sets.same_clips:
            evaluated = {m: arrays for m, arrays in evaluated.items() if m[0] in real_ids}
            ours = {clip_id for clip_id, _ in evaluated}
            real = {m: arrays for m, arrays in real.items() if m[0] in ours}
        value = set_value(
            self._metric, list(evaluated.values()), list(real.values()), self._statistics, carry=row == "generated"
        )
        cell = _set_cell(value, len(evaluated))
        if row != "generated" or len(real) < 4:
            return cell
        at_floor = self._at_floor(evaluated, real)
        return Cell(**{**cell.__dict__, "at_floor": None if at_floor is None else _numbers(at_floor)})

    def _to_reference(self, row: Row) -> Cell:
        """Distance of the generated or the real clips from the reference set, all of it."""
        evaluated = _first_samples(self._of("generated" if row == "generated_reference" else "real"))
        reference = self._of("reference")
        value = set_value(self._metric, list(evaluated.values()), list(reference.values()), self._statistics)
        return _set_cell(value, len(evaluated))

    def _at_floor(self, evaluated: Mapping[Member, Arrays], real: Mapping[Member, Arrays]) -> Estimate | None:
        """The generated clips of one half against the real clips of the other: the floor's N, and as disjoint."""
        first, second = halves(list(real), self._statistics.seed)
        if self._protocol.sets.same_clips:
            wanted = {clip_id for clip_id, _ in first}
            ours = [arrays for (clip_id, _), arrays in evaluated.items() if clip_id in wanted]
        else:
            ours = list(evaluated.values())[: len(first)]
        if len(ours) < 2:
            return None
        return set_value(self._metric, ours, [real[m] for m in second], self._statistics).estimate

    def _inception(self, row: Row) -> Cell:
        evaluated = list(_first_samples(self._of(row)).values())
        return _set_cell(set_value(self._metric, evaluated, [], self._statistics), len(evaluated))

    def _against_real(self, row: Row) -> Cell:
        real = {clip_id: arrays for (clip_id, _), arrays in self._of("real").items()}
        evaluated = self._of("generated" if row == "shuffled" else row)
        members = [member for member in evaluated if member[0] in real]
        if not members:
            raise InputError(f"{self._metric.name} needs generated clips with a real partner; there is none")
        ids = [clip_id for clip_id, _ in members]
        if row == "shuffled":
            ordered = sorted(set(ids))
            partner = derangement(len(ordered), self._statistics.seed)
            place = {clip_id: number for number, clip_id in enumerate(ordered)}
            ids = [ordered[partner[place[clip_id]]] for clip_id in ids]
        values = pair_values(self._metric, [evaluated[m] for m in members], [real[clip_id] for clip_id in ids])
        scores = dict(zip(members, map(float, values), strict=True))
        if row == "generated":
            self.scores = scores
        return self._mean(scores)

    def _within(self, row: Row) -> Cell | None:
        clips = self._of("generated" if row == "shuffled" else row)
        members = list(clips)
        others = members
        if row == "shuffled":
            others = [members[number] for number in derangement(len(members), self._statistics.seed)]
        scores, left_out = {}, 0
        for member, other in zip(members, others, strict=True):
            value = clip_value(self._metric, clips[member], clips[other], self._fps)
            if value is None:
                left_out += 1
            else:
                scores[member] = value
        if row == "shuffled" and self._metric.form == "desync":
            return None
        if row == "generated":
            self.scores = scores
        return self._mean(scores, left_out)

    def _mean(self, scores: Mapping[Member, float], left_out: int = 0) -> Cell:
        """Mean over clips of the mean over a clip's samples."""
        by_clip: dict[str, list[float]] = {}
        for (clip_id, _), value in scores.items():
            by_clip.setdefault(clip_id, []).append(value)
        means = np.array([np.mean(values) for values in by_clip.values()])
        notes = (f"{left_out} clips without a value are left out",) if left_out else ()
        if not len(means):
            return Cell(value=None, left_out=left_out, notes=(*notes, "no clip has a value"))
        estimate = mean_interval(means, self._statistics.draws, self._statistics.seed)
        return Cell(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            clips=len(means),
            vectors=len(scores),
            left_out=left_out,
            notes=notes,
        )

    def _of(self, row: Row) -> Mapping[Member, Arrays]:
        return self._features(self._metric, row)


def halves(members: Sequence[Member], seed: int) -> tuple[list[Member], list[Member]]:
    """Two disjoint halves by clip, of equal size; an odd clip is left out. Raises InputError for fewer than 4."""
    if len(members) < 4:
        raise InputError(f"{len(members)} real clips are too few for two halves; wanted 4 or more")
    ordered = sorted(members)
    order = np.random.default_rng(seed).permutation(len(ordered))
    size = len(ordered) // 2
    return [ordered[i] for i in order[:size]], [ordered[i] for i in order[size : 2 * size]]


def _resolve(table: Table, metric: Metric, protocol: Protocol) -> None:
    """Whether the generated clips differ from the floor, or single clips' scores from chance."""
    generated = table.cells.get("generated", {}).get(metric.name)
    other: Row = "real_halves" if metric.form in DISTRIBUTION else "shuffled"
    floor = table.cells.get(other, {}).get(metric.name)
    if generated is None or floor is None or generated.value is None or floor.value is None:
        return
    value = generated.value if generated.at_floor is None else generated.at_floor["value"]
    if floor.low is None or floor.high is None or not np.isfinite([floor.low, floor.high]).all():
        return
    resolved = not floor.low <= value <= floor.high
    table.cells["generated"][metric.name] = Cell(**{**generated.__dict__, "resolved": resolved})


def _first_samples(clips: Mapping[Member, Arrays]) -> dict[Member, Arrays]:
    """One sample of each clip: a set's distance takes every clip once."""
    first: dict[str, Member] = {}
    for member in sorted(clips):
        first.setdefault(member[0], member)
    return {member: clips[member] for member in first.values()}


def _set_cell(value: SetValue, clips: int) -> Cell:
    carried = value.extrapolated
    return Cell(
        value=value.estimate.value,
        low=value.estimate.low,
        high=value.estimate.high,
        clips=clips,
        vectors=value.vectors,
        std=value.std,
        extrapolated=None if carried is None else asdict(carried),
        notes=value.notes,
    )


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
