"""The normalised clips of a run, to look at: each one's file, and frames of it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pipelines.run.commits import read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units
from uniform.captioning.frames import chosen
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.spec import Spec

FRAMES = 4
THUMBNAIL_PX = 160


class ClipFiles:
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
            if commit is None or commit.artifact is None or not members.exists():
                continue
            table = pq.read_table(members, columns=["clip_id", "field", "offset", "bytes"], partitioning=None)
            places = {
                row["clip_id"]: (self._folder.inside(commit.artifact), row["offset"], row["bytes"])
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
