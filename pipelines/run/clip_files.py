"""The normalised clips of a run, to show to people: each clip's file, and frames of it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipelines.run.commits import read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units
from uniform.captioning.frames import chosen
from uniform.errors import MediaError, ShardError
from uniform.media.clip_file import read_clip
from uniform.spec import Spec
from uniform.tables import read_parquet

FRAMES = 4
THUMBNAIL_PX = 160


class ClipFiles:
    """Reads the normalised clips of a run by the offsets of their members."""

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
            table = read_parquet(
                members, ShardError, "the member table of a shard", ["clip_id", "field", "offset", "bytes"]
            )
            places = {
                row["clip_id"]: (self._folder.inside(commit.artifact), row["offset"], row["bytes"])
                for row in table.to_pylist()
                if row["field"] == "mp4"
            }
            if places:
                return places
        return {}

    def thumbnails(self, clip_file: bytes) -> list[str]:
        """Frames of a clip as data URLs of JPEG files; none where the clip is damaged."""
        try:
            frames = chosen(read_clip(clip_file, self._spec)[0], FRAMES)
        except MediaError:
            return []
        found = []
        for frame in frames:
            image = Image.fromarray(frame)
            image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            file = io.BytesIO()
            image.save(file, "JPEG", quality=88)
            found.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
        return found
