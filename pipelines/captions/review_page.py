"""The captions review page: frames and player of each clip, its captions of every set side by side, and drop codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.captions.sets import Caption, CaptionSet, read_sets
from pipelines.codes import CODES
from pipelines.disk import writing_to
from pipelines.run.clip_files import ClipFiles
from pipelines.run.folder import RunFolder
from pipelines.run.record import read_run_record
from pipelines.run.units import Units
from uniform.atomic import write_bytes
from uniform.pages import render_page

PAGE_NAME = "captions.html"
TEMPLATE = Path(__file__).with_name("review_page.html.j2")


@dataclass(frozen=True, kw_only=True)
class ReviewedClip:
    """One clip on the page."""

    clip_id: str
    dataset: str
    split: str
    labels: Sequence[str]
    frames: Sequence[str]
    """JPEG frames as data: URLs; none where the run keeps no clips."""
    file_name: str | None
    """Name of the clip's file beside the page; None where the run keeps no clips."""
    captions: Sequence[Caption | None]
    """One per set; None where the clip did not reach the stage of the set."""


def write_review_page(folder: RunFolder, out: Path, *, clips: int = 24, names: Sequence[str] | None = None) -> Path:
    """Write the page and the clips that it shows into the folder `out`. Returns the page's path.

    Args:
        clips: how many at most. A third are clips without a caption, where there are any; the others are evenly spaced.
        names: of caption sets; None shows all.
    Raises: PipelineError where the folder is not a run or has no captions.
    """
    units, sets = Units.read(folder), read_sets(folder, names)
    record = read_run_record(folder)
    clip_files = ClipFiles(folder, units, record.stages, record.spec)
    rows = {row["clip_id"]: row for row in units.clips.to_pylist()}
    with writing_to(out):
        shown = [
            _reviewed(rows[clip_id], clip_files, out, [one.captions.get(clip_id) for one in sets.values()])
            for clip_id in _choice(sets, clips)
        ]
        meanings = {code: known.meaning for code, known in CODES.items()}
        page = render_page(TEMPLATE, folder=str(folder.path), sets=list(sets.values()), clips=shown, meanings=meanings)
        write_bytes(out / PAGE_NAME, page.encode())
    return out / PAGE_NAME


def _choice(sets: Mapping[str, CaptionSet], most: int) -> list[str]:
    """At most `most` clips of any set, dropped ones among them, in the order of the units."""
    every = list(dict.fromkeys(clip_id for one in sets.values() for clip_id in one.captions))
    dropped = [
        clip_id for clip_id in every if any(clip_id in s.captions and clip_id not in s.kept for s in sets.values())
    ]
    picked = set(_evenly_spaced(dropped, max(1, most // 3)))
    picked |= set(_evenly_spaced([clip_id for clip_id in every if clip_id not in picked], most - len(picked)))
    return [clip_id for clip_id in every if clip_id in picked]


def _evenly_spaced(items: Sequence[str], most: int) -> list[str]:
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


def _reviewed(
    row: Mapping[str, Any], clip_files: ClipFiles, out: Path, captions: Sequence[Caption | None]
) -> ReviewedClip:
    mp4 = clip_files.read(row["clip_id"])
    file_name = None
    if mp4 is not None:
        file_name = f"{row['clip_id']}.mp4"
        write_bytes(out / file_name, mp4)
    return ReviewedClip(
        clip_id=row["clip_id"],
        dataset=row["dataset"],
        split=row["split"],
        labels=row["labels"] or (),
        frames=[] if mp4 is None else clip_files.thumbnails(mp4),
        file_name=file_name,
        captions=captions,
    )
