"""A page to judge captions by: each clip's frames and player, its captions of every set side by side, and the codes."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from PIL import Image

from pipelines.caption_sets import Caption, CaptionSet, read_sets
from pipelines.codes import CODES
from pipelines.commits import read_commit
from pipelines.folder import RunFolder, writing_to
from pipelines.prepare import remembered
from pipelines.units import Units
from uniform.atomic import write_bytes
from uniform.captioning.frames import chosen
from uniform.errors import MediaError
from uniform.media.clipfile import read_clip
from uniform.spec import Spec

FRAMES = 4
THUMBNAIL_PX = 160
PAGE_NAME = "captions.html"
TEMPLATE = Path(__file__).parent / "captions.html.j2"


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
    told = remembered(folder)
    films = _Films(folder, units, told["stages"], Spec(**told["spec"]))
    rows = {row["clip_id"]: row for row in units.clips.to_pylist()}
    with writing_to(out):
        shown = [
            _shown(rows[clip_id], films, out, [one.captions.get(clip_id) for one in sets.values()])
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


def _shown(row: Mapping[str, Any], films: "_Films", out: Path, captions: Sequence[Caption | None]) -> Shown:
    film = films.read(row["clip_id"])
    name = None
    if film is not None:
        name = f"{row['clip_id']}.mp4"
        write_bytes(out / name, film)
    return Shown(
        clip_id=row["clip_id"],
        dataset=row["dataset"],
        split=row["split"],
        labels=row["labels"] or (),
        frames=[] if film is None else films.thumbnails(film),
        film=name,
        captions=captions,
    )


class _Films:
    """The normalised clips of a run, found by their members' places."""

    def __init__(self, folder: RunFolder, units: Units, stages: Sequence[str], spec: Spec) -> None:
        self._folder, self._units, self._stages, self._spec = folder, units, stages, spec
        self._places: dict[int, dict[str, tuple[Path, int, int]]] = {}

    def read(self, clip_id: str) -> bytes | None:
        """The clip's file; None where the run has none."""
        unit = self._units.last_unit[clip_id]
        if unit not in self._places:
            self._places[unit] = self._unit(unit)
        place = self._places[unit].get(clip_id)
        if place is None or not place[0].exists():
            return None
        path, offset, size = place
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _unit(self, unit: int) -> dict[str, tuple[Path, int, int]]:
        for stage in self._stages:
            commit = read_commit(self._folder.commit(stage, unit))
            members = self._folder.members(stage, unit)
            if commit is None or commit.artefact is None or not members.exists():
                continue
            table = pq.read_table(members, columns=["clip_id", "field", "offset", "bytes"], partitioning=None)
            places = {
                row["clip_id"]: (self._folder.inside(commit.artefact), row["offset"], row["bytes"])
                for row in table.to_pylist()
                if row["field"] == "mp4"
            }
            if places:
                return places
        return {}

    def thumbnails(self, film: bytes) -> list[str]:
        """Frames of a clip as JPEG files inside addresses; none where the clip is damaged."""
        try:
            frames = chosen(read_clip(film, self._spec)[0], FRAMES)
        except MediaError:
            return []
        found = []
        for frame in frames:
            picture = Image.fromarray(frame)
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=88)
            found.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
        return found


def _render(**facts: Any) -> str:
    """The page, with every text from outside escaped: a caption that looks like HTML is shown as text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    meanings = {code: told.meaning for code, told in CODES.items()}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(meanings=meanings, **facts)
