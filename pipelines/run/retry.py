"""Plan clips again that were dropped for a reason that may have passed."""

import json
import time
from pathlib import Path

from pipelines.codes import CODES
from pipelines.run.folder import RunFolder
from pipelines.run.job import open_run
from pipelines.run.record import read_run_record
from pipelines.run.status import clips_with_code
from pipelines.run.units import Units
from uniform.atomic import write_bytes
from uniform.config import nearest
from uniform.errors import PipelineError


def retry_code(path: Path, code: str, *, force: bool = False) -> list[int]:
    """Plan the clips of the run in `path` again that were dropped with `code`. See `plan_again`."""
    folder = RunFolder(path)
    unit_clips = open_run(path).recipe.unit_clips if read_run_record(folder).recipe_source else None
    return plan_again(folder, code, unit_clips, force=force)


def plan_again(folder: RunFolder, code: str, unit_clips: int | None, *, force: bool = False) -> list[int]:
    """Put the clips that failed with `code` into further units; the next run does them.

    Args:
        unit_clips: clips per further unit; None puts them all into one.
        force: even where the code's policy says that asking again changes nothing.
    Returns: the new units; none where no clip has that code.
    Raises: PipelineError where the code is unknown, or its policy says that asking again changes nothing.
    """
    if code not in CODES:
        raise PipelineError(f"there is no code '{code}'{nearest(code, CODES)}")
    if CODES[code].remedy is None and not force:
        raise PipelineError(
            f"'{code}' ({CODES[code].meaning}) is {CODES[code].policy}: asking again changes nothing. "
            f"If you have fixed the cause, a file for instance, add --force. "
            f"For another result, change the stage's options: uniform pipeline run {folder.path} --replace-stale"
        )
    stages = read_run_record(folder).stages
    with folder.locked():
        units = Units.read(folder)
        clip_ids = clips_with_code(folder, stages, units, code)
        if not clip_ids:
            return []
        policy = CODES[code].policy
        if policy != "retryable":  # first: without it the further units would get the old refusals
            unblocked_at_s = {**folder.unblocked_at_s(), policy: time.time()}
            write_bytes(folder.unlocked, json.dumps(unblocked_at_s, sort_keys=True).encode())
        longer = units.with_clips(clip_ids, unit_clips or len(clip_ids), f"retry:{code}")
        longer.write(folder)
    return list(range(len(units), len(longer)))
