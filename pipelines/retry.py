"""Plan clips again that left the road for a reason that may have passed."""

from pipelines.codes import CODES
from pipelines.folder import RunFolder
from pipelines.prepare import remembered
from pipelines.status import clips_with_code
from pipelines.units import Units
from uniform.config import nearest
from uniform.errors import PipelineError


def plan_again(folder: RunFolder, code: str, unit_clips: int | None) -> list[int]:
    """Put the clips that failed with `code` into further units; the next run does them.

    Args:
        unit_clips: clips per further unit; None puts them all into one.
    Returns: the new units; none where no clip has that code.
    Raises: PipelineError where the code is unknown, or its policy says that asking again changes nothing.
    """
    if code not in CODES:
        raise PipelineError(f"there is no code '{code}'{nearest(code, CODES)}")
    if not CODES[code].retriable:
        raise PipelineError(
            f"'{code}' ({CODES[code].meaning}) is {CODES[code].policy}: asking again changes nothing. "
            f"To judge otherwise, change the stage's options: uniform pipeline run {folder.path} --replace-stale"
        )
    stages = remembered(folder)["stages"]
    with folder.locked():
        units = Units.read(folder)
        clip_ids = clips_with_code(folder, stages, units, code)
        if not clip_ids:
            return []
        longer = units.with_clips(clip_ids, unit_clips or len(clip_ids), f"retry:{code}")
        longer.write(folder)
    return list(range(len(units), len(longer)))
