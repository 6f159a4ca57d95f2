"""A protocol: everything that decides what the numbers of an evaluation mean, as data in one TOML file.

How clips are read, which sets are compared, which metrics, which statistics; and the rows that a paper printed, so that
a table can stand beside them. The file's digest is in the record of every number.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from uniform.config import Document, build, nearest, read_toml
from uniform.errors import ConfigError
from uniform.evaluation.metric_names import Metric, metric_by_name, needs_audio, needs_video
from uniform.fingerprint import digest
from uniform.spec import Spec

FOLDER = Path(__file__).with_name("protocols")
Row = Literal["generated", "generated_reference", "real", "real_halves", "reference", "codec", "shuffled", "worst"]
ROWS: tuple[Row, ...] = (
    "generated",
    "generated_reference",
    "real",
    "real_halves",
    "reference",
    "codec",
    "shuffled",
    "worst",
)
MAX_DRAWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file becomes a clip: both sets are read in the same way."""

    duration_s: int
    """Seconds of each clip that count, from its start; a shorter file is dropped."""
    fps: int
    """Frames per second; a file of another rate is sampled at these times."""
    size_px: int
    """Height and width of the frames, by FFmpeg's bicubic filter; a file of this size is not touched."""
    fit: Literal["crop", "squash"] = "crop"
    """crop: the shorter side to size, then the middle; squash: both sides to size."""
    channels: Literal["mean", "first"] | None = None
    """How audio channels become one; None is each extractor's own rule."""
    remove_dc: bool | None = None
    """Subtract the mean before resampling; None is each extractor's own rule."""

    def __post_init__(self) -> None:
        if self.size_px % 8 or not 16 <= self.size_px <= 1024:
            raise ConfigError(f"reading.size_px is {self.size_px}; wanted a multiple of 8 from 16 to 1024")
        if not 1 <= self.duration_s <= 60 or not 1 <= self.fps <= 120:
            raise ConfigError(f"reading is {self.duration_s} s at {self.fps} fps; wanted 1 to 60 s and 1 to 120 fps")

    @property
    def spec(self) -> Spec:
        """The geometry that the media reader takes."""
        return Spec(
            name="evaluation",
            fps=self.fps,
            height_px=self.size_px,
            width_px=self.size_px,
            duration_s=self.duration_s,
            chunk_frames=self.fps,
        )


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is compared."""

    same_clips: bool = True
    """Generated and real clips belong together by clip_id; False compares two sets of equal N."""
    expected_clips: int | None = None
    """N of the protocol; another N is said beside every number."""
    reference: str = ""
    """Which real clips the protocol means, for readers."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How sure a number is. Changing these computes no feature again."""

    draws: int = 1000
    """Bootstrap draws of clips for the 95% interval."""
    seed: int = 0
    """Of draws, halves, and shuffled pairs."""
    extrapolate: bool = True
    """Carry Frechet distances to 1 / N = 0."""
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= MAX_DRAWS:
            raise ConfigError(f"statistics.draws is {self.draws}; wanted 1 to {MAX_DRAWS:,}")


@dataclass(frozen=True, kw_only=True)
class MetricChoice:
    """One column."""

    name: str
    """Of a metric: it carries the definition."""
    column: str = ""
    """The paper's name for the column; empty where no paper printed it."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of the paper's table, as printed."""

    model: str
    values: dict[str, float]
    """By column; a column that the paper leaves empty is absent."""
    text: bool | None = None
    """Table 4: whether the text was given."""
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the paper printed, what differs here, and what it leaves open."""

    table: str
    rows: tuple[PaperRow, ...]
    differs: tuple[str, ...] = ()
    """What this protocol fixes where the paper is silent, or does differently."""
    open_questions: tuple[str, ...] = ()
    """What the paper says twice, differently, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What `evaluate tables` samples from a checkpoint."""

    tasks: tuple[Literal["t2av", "a2v", "v2a"], ...]
    text: tuple[bool, ...] = (True,)
    """With and without the text: each is an arm, with the same noise."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A whole protocol."""

    title: str
    about: str
    reading: Reading
    sets: Sets = field(default=Sets())
    statistics: Statistics = field(default=Statistics())
    metrics: tuple[MetricChoice, ...]
    rows: tuple[Row, ...] = ROWS
    paper: Paper | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError("metrics is empty; name one or more")
        names = [choice.name for choice in self.metrics]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ConfigError(f"metrics names {', '.join(double)} more than once")
        for metric in self.chosen:
            if self.reading.duration_s < metric.least_s:
                raise ConfigError(
                    f"{metric.name} needs clips of {metric.least_s:g} s or more; this protocol reads "
                    f"{self.reading.duration_s} s. Take desync_javis4s, which has a rule for shorter clips."
                )
            if metric.frames is not None and metric.frames > self.reading.fps * self.reading.duration_s:
                raise ConfigError(
                    f"{metric.name} wants {metric.frames} frames; a clip has "
                    f"{self.reading.fps * self.reading.duration_s}"
                )

    @cached_property
    def chosen(self) -> tuple[Metric, ...]:
        """The metrics, in the order of the columns."""
        return tuple(metric_by_name(choice.name) for choice in self.metrics)

    @property
    def needs_video(self) -> bool:
        """Whether any metric looks at frames; otherwise files without video will do."""
        return any(needs_video(metric) for metric in self.chosen)

    @property
    def needs_audio(self) -> bool:
        """Whether any metric listens."""
        return any(needs_audio(metric) for metric in self.chosen)

    def rows_with(self, *, codec: bool, reference: bool) -> tuple[Row, ...]:
        """The protocol's rows, without those that want codecs or a reference set where none is given."""
        left_out: list[Row] = [] if codec else ["codec"]
        if not reference:
            left_out += ["generated_reference", "reference"]
        return tuple(row for row in self.rows if row not in left_out)

    def column(self, name: str) -> str:
        """The paper's column of a metric; its own name where there is none."""
        return next((choice.column for choice in self.metrics if choice.name == name), "") or name


@dataclass(frozen=True, kw_only=True)
class ProtocolFile:
    """A protocol with the text that it was read from."""

    name: str
    text: str
    protocol: Protocol

    @property
    def digest(self) -> str:
        """16 hex digits of the text's SHA-256: two numbers with one digest were meant to be the same."""
        return digest(self.text)


def shipped_protocols() -> tuple[str, ...]:
    """Names of the protocols that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read_protocol(name_or_path: str, metrics: tuple[str, ...] = ()) -> ProtocolFile:
    """A shipped protocol by its name, or a file's.

    Args:
        metrics: only these of the protocol's metrics; empty is all of them.
    Raises: ConfigError for a name that is not there, an unknown key or metric, or a value out of range.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in shipped_protocols():
            known = nearest(name_or_path, shipped_protocols())
            raise ConfigError(f"there is no protocol '{name_or_path}'{known} A protocol of your own is a .toml file.")
        path = FOLDER / f"{name_or_path}.toml"
    document = read_toml(path)
    values = dict(document.values)
    if metrics:
        values["metrics"] = _only(values.get("metrics", []), metrics, document)
    protocol = build(Protocol, values, document)
    text = document.text if not metrics else f"{document.text}\n# only: {', '.join(metrics)}\n"
    return ProtocolFile(name=path.stem, text=text, protocol=protocol)


def _only(tables: list[dict[str, Any]], metrics: tuple[str, ...], document: Document) -> list[dict[str, Any]]:
    """The tables of some metrics; a metric that the protocol does not name is added without a column."""
    by_name = {table.get("name"): table for table in tables}
    for name in metrics:
        metric_by_name(name)
    return [by_name.get(name, {"name": name}) for name in metrics]
