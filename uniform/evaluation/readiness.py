"""What can be measured on this machine: which weights are there, whether their digests are known, what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uniform.errors import ConfigError, WeightsError
from uniform.evaluation.extractors.catalogue import extractors, weights_of
from uniform.evaluation.metric_names import ALIGNMENT, BRIGHTNESS, metric_by_name, metric_names
from uniform.evaluation.streams import Extractors


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Of one extractor."""

    extractor: str
    ready: bool
    why: str
    """What is missing and how to get it; empty where nothing is."""
    known: bool | None
    """Whether all digests are the published ones; None where there are no weights to look at."""
    bytes: int
    """About what the published files take."""
    licence: str
    metrics: tuple[str, ...]
    """What it is needed for."""


def readiness(weights: Path) -> list[Readiness]:
    """Every extractor of the catalogue, and AV-Align's libraries. Opens no network."""
    opened = Extractors(weights)
    names = [*extractors(), ALIGNMENT, BRIGHTNESS]
    return [_one(name, opened) for name in names]


def without(ready: Sequence[Readiness], metrics: Sequence[str]) -> list[str]:
    """Those of `metrics` that cannot be computed here."""
    missing = {one.extractor for one in ready if not one.ready}
    return [name for name in metrics if metric_by_name(name).extractor in missing]


def _one(name: str, opened: Extractors) -> Readiness:
    metrics = tuple(metric for metric in metric_names() if metric_by_name(metric).extractor == name)
    why = opened.problem(name) or ""
    if name in (ALIGNMENT, BRIGHTNESS):
        return Readiness(extractor=name, ready=not why, why=why, known=None, bytes=0, licence="-", metrics=metrics)
    entry = extractors()[name]
    size, licence = 0, "-"
    if entry.weights is not None:
        published = weights_of(entry)
        size, licence = published.bytes, published.terms
    known: bool | None = None
    if not why:
        try:
            records = opened.weights_records(name)
            known = all(record.known for record in records) if records else None
        except (ConfigError, WeightsError) as error:
            why = str(error)
    return Readiness(extractor=name, ready=not why, why=why, known=known, bytes=size, licence=licence, metrics=metrics)
