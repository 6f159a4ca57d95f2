"""Forecast when a run ends, from the rate of each stage so far, or from the prediction of its pilot."""

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
"""The rate is that of the last units, because the speed of hosts changes during a run of weeks."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The remaining work of one stage."""

    stage: str
    clips_left: int
    """Planned clips in units that the stage has not committed, with those that earlier stages may still drop."""
    seconds_left: float | None
    """Wall-clock seconds; None where the stage has no rate yet and there was no pilot."""
    basis: Literal["rate", "pilot", "none"]
    """Where `seconds_left` comes from."""


def forecasts(folder: RunFolder, stages: Sequence[str], units: Units) -> list[Forecast]:
    """The remaining work of each stage. Raises PipelineError where a commit marker or the prediction is damaged."""
    prediction = read_prediction(folder)
    predicted = {one.stage: one.wall_s.value / prediction.clips for one in prediction.stages} if prediction else {}
    found = []
    for stage in stages:
        commits = list(unit_commits(folder, stage, units))
        left = units.plan.num_rows - sum(len(units.ids(commit.unit)) for commit in commits)
        seconds_per_clip = _seconds_per_clip(commits, units)
        basis: Literal["rate", "pilot", "none"] = "rate"
        if seconds_per_clip is None:
            seconds_per_clip = predicted.get(stage)
            basis = "none" if seconds_per_clip is None else "pilot"
        seconds = 0.0 if left == 0 else None if seconds_per_clip is None else left * seconds_per_clip
        found.append(Forecast(stage=stage, clips_left=left, seconds_left=seconds, basis=basis))
    return found


def _seconds_per_clip(commits: Sequence[Commit], units: Units) -> float | None:
    """Wall-clock seconds per clip without pauses; None where no commit marker holds the end of its unit."""
    timed = [(commit.ended, commit.seconds, commit.unit) for commit in commits if commit.ended is not None]
    recent = sorted(timed)[-RECENT_UNITS:]
    clips = sum(len(units.ids(unit)) for _, _, unit in recent)
    return busy_s((ended - seconds, ended) for ended, seconds, _ in recent) / clips if clips else None
