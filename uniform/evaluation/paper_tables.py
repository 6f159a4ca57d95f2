"""A paper's table from a checkpoint: sample what is missing, evaluate, and set it beside the rows that were printed.

How samples are made is handed in: this folder does not import the model. Finished samples are kept, so a stopped
command goes on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniform.atomic import write_bytes
from uniform.errors import ConfigError, InputError
from uniform.evaluation.paired import Difference, compare
from uniform.evaluation.protocol import ProtocolFile
from uniform.evaluation.run import Evaluation, Options, Progress, evaluate
from uniform.evaluation.sets import ClipFile, ClipSet, names, read_set
from uniform.evaluation.streams import Extractors

MAX_SEED = 2**31 - 1
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, kw_only=True)
class WantedSample:
    """One sample that a table needs."""

    name: str
    """File name of the sample, without a suffix."""
    clip_id: str
    task: str
    """t2av, a2v or v2a."""
    text: str | None
    media: Path | None
    """The real clip that gives the conditioning modality; None for t2av."""
    start_ms: int
    seed: int
    """Of the noise: depends on the clip alone, so that arms with and without text share it."""


Sampler = Callable[[Sequence[WantedSample], Path], None]
"""Makes every sample that the folder does not hold yet, as NAME.mp4."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One task, with or without text."""

    task: str
    text: bool
    samples: Path
    """List of its samples."""
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """For tables and folders."""
        return arm_name(self.task, self.text)


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """What `make_tables` gives."""

    arms: tuple[Arm, ...]
    differences: Mapping[str, Sequence[Difference]]
    """By task: with text against without, where the protocol has both arms."""


def arm_name(task: str, text: bool) -> str:
    """Of an arm: "v2a-text", "v2a-no-text"."""
    return f"{task}-{'text' if text else 'no-text'}"


def make_tables(
    protocol: ProtocolFile,
    real: Path,
    out: Path,
    sampler: Sampler,
    options: Options,
    *,
    tasks: Sequence[str] = (),
    progress: Progress,
    given: Extractors | None = None,
) -> PaperTable:
    """Sample and evaluate every arm of a protocol.

    Args:
        real: folder or list of the real clips; with text or label, where an arm wants text.
        out: folder: samples/ARM, and ARM.jsonl, the list of an arm's samples.
        tasks: of the protocol's tasks; empty is all.
    Raises: ConfigError for a protocol without a [sampling] table, or a task that it does not have; InputError for real
        clips without the text that an arm wants; and what `evaluate` and the sampler raise.
    """
    rules = protocol.protocol.sampling
    if rules is None:
        raise ConfigError(f"protocol {protocol.name} has no [sampling] table: it says no task to sample. Add one.")
    unknown = sorted(set(tasks) - set(rules.tasks))
    if unknown:
        raise ConfigError(f"protocol {protocol.name} samples {', '.join(rules.tasks)}; not {', '.join(unknown)}")
    real_set = read_set(real, "real", root=options.root, audio_only=not protocol.protocol.needs_video)
    chosen = [task for task in rules.tasks if not tasks or task in tasks]
    plan = [(task, text) for task in chosen for text in rules.text]
    wanted = {(task, text): wanted_samples(real_set, task, text=text, seed=rules.seed) for task, text in plan}
    arms = []
    for task, text in plan:
        folder = out / "samples" / arm_name(task, text)
        sampler(wanted[task, text], folder)
        listing = _write_list(wanted[task, text], folder, out / f"{arm_name(task, text)}.jsonl")
        found = evaluate(listing, real, protocol, options, progress=progress, given=given)
        arms.append(Arm(task=task, text=text, samples=listing, evaluation=found))
    differences: dict[str, Sequence[Difference]] = {}
    for task in chosen:
        both = {arm.text: arm.evaluation for arm in arms if arm.task == task}
        if len(both) == 2:
            differences[task] = compare(both[False], both[True])
    return PaperTable(arms=tuple(arms), differences=differences)


def wanted_samples(real: ClipSet, task: str, *, text: bool, seed: int) -> list[WantedSample]:
    """One sample a real clip. Raises InputError where clips lack the text that is wanted."""
    clips = list({clip.clip_id: clip for clip in reversed(real.clips)}.values())[::-1]
    if task == "t2av" and not text:
        raise InputError("t2av starts from text; an arm without text is no t2av")
    bare = [clip.clip_id for clip in clips if text and not _text(clip)]
    if bare:
        raise InputError(
            f"{len(bare):,} of {len(clips):,} real clips have neither text nor label ({names(bare)}); the arm with "
            f"text of {task} needs one a clip. Give a list with a column 'text' or 'label'."
        )
    return [
        WantedSample(
            name=sample_name(clip.clip_id),
            clip_id=clip.clip_id,
            task=task,
            text=_text(clip) if text else None,
            media=None if task == "t2av" else clip.path,
            start_ms=0 if task == "t2av" else clip.start_ms,
            seed=clip_seed(clip.clip_id, seed),
        )
        for clip in clips
    ]


def clip_seed(clip_id: str, seed: int) -> int:
    """A seed of a clip's own, the same for every arm."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()[:8], "big") % MAX_SEED


def sample_name(clip_id: str) -> str:
    """A plain file name for a clip: readable, and different for different ids."""
    plain = _PLAIN.sub("_", clip_id).lstrip(".-_")[:80] or "clip"
    return plain if plain == clip_id else f"{plain}-{hashlib.sha256(clip_id.encode()).hexdigest()[:10]}"


def beside_paper(table: PaperTable, protocol: ProtocolFile) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table: ours first, then the floor, then what the paper printed."""
    paper = protocol.protocol.paper
    columns = ["row"]
    metric_names = [choice.name for choice in protocol.protocol.metrics]
    computed = {metric.name for arm in table.arms for metric in arm.evaluation.metrics}
    shown = [name for name in metric_names if name in computed]
    columns += [
        name if protocol.protocol.column(name) == name else f"{protocol.protocol.column(name)} ({name})"
        for name in shown
    ]
    rows = []
    for arm in table.arms:
        cells = arm.evaluation.table.cells
        for row, label in (("generated", arm.name), ("real_halves", f"{arm.name}: real vs real")):
            own = cells.get(row, {})  # type: ignore[call-overload]
            rows.append([label, *(_shown(own.get(name)) for name in shown)])
    tasks = {arm.task for arm in table.arms}
    for printed in paper.rows if paper is not None else ():
        if printed.task and printed.task not in tasks:
            continue
        values = [printed.values.get(protocol.protocol.column(name)) for name in shown]
        rows.append([f"printed: {printed.model}", *("" if value is None else f"{value:g}" for value in values)])
    return columns, rows


def _shown(cell: object) -> str:
    from uniform.evaluation.table import Cell

    if not isinstance(cell, Cell) or cell.value is None:
        return ""
    interval = "" if cell.low is None or cell.high is None else f" [{cell.low:.3g}, {cell.high:.3g}]"
    return f"{cell.value:.4g}{interval} N {cell.clips}{' not resolved' if cell.resolved is False else ''}"


def _text(clip: ClipFile) -> str | None:
    return clip.text or clip.label or None


def _write_list(samples: Sequence[WantedSample], folder: Path, path: Path) -> Path:
    lines = [
        json.dumps(
            {
                "clip_id": one.clip_id,
                "path": str((folder / f"{one.name}.mp4").relative_to(path.parent)),
                "task": one.task,
                "text": one.text or "",
            },
            ensure_ascii=False,
        )
        for one in samples
    ]
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return path
