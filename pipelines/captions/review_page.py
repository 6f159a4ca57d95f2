"""A page to judge captions by: each clip's frames and player, its captions of every set side by side, and the codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pipelines.captions.sets import Caption, CaptionSet, read_sets
from pipelines.codes import CODES
from pipelines.disk import writing_to
from pipelines.run.clip_files import ClipFiles
from pipelines.run.folder import RunFolder
from pipelines.run.record import read_run_record
from pipelines.run.units import Units
from uniform.atomic import write_bytes

PAGE_NAME = "captions.html"
TEMPLATE = Path(__file__).parent / "review_page.html.j2"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip on the page."""

    clip_id: str
    dataset: str
    split: str
    labels: Sequence[str]
    frames: Sequence[str]
    """JPEG files inside addresses; none where the run keeps no clips."""
    film: str | None
    """File name of the clip beside the page."""
    captions: Sequence[Caption | None]
    """One a set."""


def write_sheet(folder: RunFolder, out: Path, *, clips: int = 24, names: Sequence[str] | None = None) -> Path:
    """Write the page and its clips' films into `out`. Returns the page's path.

    Args:
        clips: at most so many: a third of them clips that were refused, as far as there are, the others evenly spaced.
        names: of sets; None shows all.
    Raises: PipelineError where the folder is not a run or has no captions.
    """
    units, sets = Units.read(folder), read_sets(folder, names)
    record = read_run_record(folder)
    clip_files = ClipFiles(folder, units, record.stages, record.spec)
    rows = {row["clip_id"]: row for row in units.clips.to_pylist()}
    with writing_to(out):
        shown = [
            _shown(rows[clip_id], clip_files, out, [one.captions.get(clip_id) for one in sets.values()])
            for clip_id in _choice(sets, clips)
        ]
        page = _render(folder=str(folder.path), sets=list(sets.values()), clips=shown)
        write_bytes(out / PAGE_NAME, page.encode())
    return out / PAGE_NAME


def _choice(sets: Mapping[str, CaptionSet], most: int) -> list[str]:
    """Clips of any set, in the order of the units: refused ones among them."""
    every = list(dict.fromkeys(clip_id for one in sets.values() for clip_id in one.captions))
    refused = [
        clip_id for clip_id in every if any(clip_id in s.captions and clip_id not in s.kept for s in sets.values())
    ]
    picked = set(_spread(refused, max(1, most // 3)))
    picked |= set(_spread([clip_id for clip_id in every if clip_id not in picked], most - len(picked)))
    return [clip_id for clip_id in every if clip_id in picked]


def _spread(items: Sequence[str], most: int) -> list[str]:
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


def _shown(row: Mapping[str, Any], clip_files: ClipFiles, out: Path, captions: Sequence[Caption | None]) -> Shown:
    film = clip_files.read(row["clip_id"])
    name = None
    if film is not None:
        name = f"{row['clip_id']}.mp4"
        write_bytes(out / name, film)
    return Shown(
        clip_id=row["clip_id"],
        dataset=row["dataset"],
        split=row["split"],
        labels=row["labels"] or (),
        frames=[] if film is None else clip_files.thumbnails(film),
        film=name,
        captions=captions,
    )


def _render(**facts: Any) -> str:
    """The page, with every text from outside escaped: a caption that looks like HTML is shown as text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    meanings = {code: told.meaning for code, told in CODES.items()}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(meanings=meanings, **facts)
