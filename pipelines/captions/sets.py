"""Read, compare, export and import the caption sets of a run."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.folder import RunFolder
from pipelines.run.ledger import OK
from pipelines.run.record import read_run_record
from pipelines.run.status import live_rows, unit_commits
from pipelines.run.units import Units
from pipelines.stage_support.caption_table import read_captions, require_set_name, write_captions
from uniform.config import nearest
from uniform.errors import InputError, PipelineError
from uniform.tables import LOCAL, local_name

_TABLES = "captions/"
IMPORTED = "imported"
"""Folder in the run directory that `import_set` writes to."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """The entry of one clip in one caption set."""

    clip_id: str
    code: str
    """"ok", or the drop code."""
    reason: str
    """Drop reason; for a kept clip the notes of the stage."""
    caption: str = ""
    origin: str = ""
    attempt: int | None = None
    finish: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """One caption set: every clip that reached its stage, in the order of the units."""

    name: str
    stage: str
    captions: Mapping[str, Caption]

    @property
    def kept(self) -> dict[str, Caption]:
        """Clips with a caption."""
        return {clip_id: one for clip_id, one in self.captions.items() if one.code == OK}

    @property
    def codes(self) -> Counter[str]:
        """Number of clips by code."""
        return Counter(one.code for one in self.captions.values())


def read_sets(folder: RunFolder, names: Sequence[str] | None = None) -> dict[str, CaptionSet]:
    """Read the caption sets of a run by name, in the order of its stages.

    Args:
        names: read only these; None reads all.
    Raises: PipelineError where the folder is not a run, or has no such set.
    """
    units = Units.read(folder)
    found: dict[str, CaptionSet] = {}
    for stage in read_run_record(folder).stages:
        captions: dict[str, Caption] = {}
        name = None
        for commit, ledger in live_rows(
            folder, unit_commits(folder, stage, units), units, ["clip_id", "code", "reason"]
        ):
            if commit.artifact is None or not commit.artifact.startswith(_TABLES):
                break
            name = commit.artifact.removeprefix(_TABLES).rpartition("/")[0]
            captions |= {one.clip_id: one for one in _unit(folder.inside(commit.artifact), ledger)}
        if name is not None:
            found[name] = CaptionSet(name=name, stage=stage, captions=captions)
    if not found:
        raise PipelineError(f"{folder.path}: it has no captions yet")
    for name in names or ():
        if name not in found:
            raise PipelineError(f"{folder.path}: there is no caption set '{name}'{nearest(name, found)}")
    return {name: found[name] for name in names or found}


def _unit(path: Path, ledger: pa.Table) -> Iterator[Caption]:
    try:
        rows = pq.read_table(local_name(path), partitioning=None, filesystem=LOCAL).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"{path}: cannot be read ({error}). Remove the unit's commit and run again.") from error
    captions = {row.pop("clip_id"): row for row in rows}
    for entry in ledger.to_pylist():
        yield Caption(**entry, **(captions[entry["clip_id"]] if entry["code"] == OK else {}))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A clip whose captions differ between two sets."""

    clip_id: str
    words: Sequence[tuple[Literal["same", "gone", "new"], str]]
    """Word diff that turns the first caption into the second."""


def differences(first: CaptionSet, second: CaptionSet) -> list[Difference]:
    """Clips with a caption in both sets that is not the same."""
    found = []
    for clip_id, one in first.kept.items():
        other = second.kept.get(clip_id)
        if other is not None and other.caption != one.caption:
            words = list(_word_diff(one.caption.split(), other.caption.split()))
            found.append(Difference(clip_id=clip_id, words=words))
    return found


def _word_diff(before: list[str], after: list[str]) -> Iterator[tuple[Literal["same", "gone", "new"], str]]:
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    for kind, left, right, left_after, right_after in matcher.get_opcodes():
        if kind == "equal":
            yield "same", " ".join(before[left:right])
            continue
        if right > left:
            yield "gone", " ".join(before[left:right])
        if right_after > left_after:
            yield "new", " ".join(after[left_after:right_after])


def export_set(folder: RunFolder, name: str, path: Path) -> int:
    """Write a caption set as a table for editing (.csv or .parquet). Returns the number of captions."""
    (chosen,) = read_sets(folder, [name]).values()
    rows = _rows(Units.read(folder), {clip_id: (c.caption, c.origin) for clip_id, c in chosen.kept.items()})
    write_captions(path, rows)
    return len(rows)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    path: Path
    human: int
    """Captions that were written or changed."""
    kept: int
    """Captions that are unchanged."""
    missing: int
    """Clips of the run without a caption in the new set."""


def import_set(folder: RunFolder, edited: Path, name: str, base: str | None = None) -> Imported:
    """Import an edited table into the run directory, as the new caption set `name`.

    Args:
        folder: of the run.
        edited: a table with clip_id and caption, of all clips or some.
        name: of the new set.
        base: the set that was exported: unchanged captions keep their origin, and clips that are not in the table keep
            their captions. None gives every caption the origin "human".
    Raises: InputError where the table is damaged, or names clips that are not in the run; ConfigError for a wrong name;
        PipelineError.
    """
    require_set_name("--set", name)
    units = Units.read(folder)
    written = read_captions(edited)
    unknown = [clip_id for clip_id in written if clip_id not in units.last_unit]
    if unknown:
        raise InputError(f"{edited}: {len(unknown)} clips are not in this run, the first is '{unknown[0]}'")
    before = (
        {}
        if base is None
        else {c.clip_id: (c.caption, c.origin) for c in read_sets(folder, [base])[base].kept.values()}
    )
    merged = dict(before)
    for clip_id, (caption, _) in written.items():
        if clip_id not in before or before[clip_id][0] != caption:
            merged[clip_id] = caption, "human"
    path = folder.path / IMPORTED / f"{name}.parquet"
    write_captions(path, _rows(units, merged))
    human = sum(origin == "human" for _, origin in merged.values())
    missing = len(units.last_unit) - len(merged)
    return Imported(path=path, human=human, kept=len(merged) - human, missing=missing)


def _rows(units: Units, captions: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    columns = ("clip_id", "dataset", "split", "labels", "source_uri")
    table = zip(*(units.clips[column].to_pylist() for column in columns), strict=True)
    return [
        {
            "clip_id": clip_id,
            "dataset": dataset,
            "split": split,
            "labels": "; ".join(labels or ()),
            "source": source,
            "caption": captions[clip_id][0],
            "origin": captions[clip_id][1],
        }
        for clip_id, dataset, split, labels, source in table
        if clip_id in captions
    ]
