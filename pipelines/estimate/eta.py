"""When a run will end, if it goes on as it went: from the pace of each stage so far, else from what its pilot said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.estimate.costs import busy_s
from pipelines.estimate.prediction import read_prediction
from pipelines.run.commits import Commit
from pipelines.run.folder import RunFolder
from pipelines.run.status import unit_commits
from pipelines.run.units import Units

RECENT_UNITS = 50
"""The pace is that of the last units: a host that has grown slower counts, what a quicker one gave last month not."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is left of one stage."""

    stage: str
    clips_left: int
    """Planned clips in units that the stage has not committed; those that an earlier stage takes are among them."""
    seconds_left: float | None
    """By the clock; None where neither the stage's own pace nor a pilot tells."""
    told_by: Literal["pace", "pilot", "nothing"]


def forecasts(folder: RunFolder, stages: Sequence[str], units: Units) -> list[Forecast]:
    """What is left, stage by stage. Raises PipelineError where a marker or the prediction is damaged."""
    prediction = read_prediction(folder)
    foretold = {one.stage: one.wall_s.value / prediction.clips for one in prediction.stages} if prediction else {}
    found = []
    for stage in stages:
        commits = list(unit_commits(folder, stage, units))
        left = units.plan.num_rows - sum(len(units.ids(commit.unit)) for commit in commits)
        a_clip = _seconds_a_clip(commits, units)
        told_by: Literal["pace", "pilot", "nothing"] = "pace"
        if a_clip is None:
            a_clip = foretold.get(stage)
            told_by = "nothing" if a_clip is None else "pilot"
        seconds = 0.0 if left == 0 else None if a_clip is None else left * a_clip
        found.append(Forecast(stage=stage, clips_left=left, seconds_left=seconds, told_by=told_by))
    return found


def _seconds_a_clip(commits: Sequence[Commit], units: Units) -> float | None:
    """By the clock, pauses left out; None where no marker says when its unit ended."""
    timed = [(commit.ended, commit.seconds, commit.unit) for commit in commits if commit.ended is not None]
    recent = sorted(timed)[-RECENT_UNITS:]
    clips = sum(len(units.ids(unit)) for _, _, unit in recent)
    return busy_s((ended - seconds, ended) for ended, seconds, _ in recent) / clips if clips else None
