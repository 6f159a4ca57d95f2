"""Who hears how a run goes on: the interface, and plain log lines."""

import logging
from typing import Protocol

from pipelines.run.commits import Commit
from pipelines.run.ledger import Tally

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Shows the progress of a run."""

    def stage_started(self, stage: str, units: int, clips: int, done: Tally) -> None:
        """`units` are left to do and hold at most `clips` clips; `done` is what earlier runs finished."""
        ...

    def unit_done(self, commit: Commit) -> None:
        """A unit was committed."""
        ...

    def stage_ended(self, stage: str, tally: Tally, seconds: float) -> None:
        """Every unit of the stage is committed."""
        ...

    def warn(self, text: str) -> None:
        """A warning: a worker died, or a unit is tried clip by clip."""
        ...


class LogListener:
    """Plain log lines."""

    def stage_started(self, stage: str, units: int, clips: int, done: Tally) -> None:
        """See Listener."""
        logger.info("%s: %d units to do (%d clips), %d clips done before", stage, units, clips, done.clips)

    def unit_done(self, commit: Commit) -> None:
        """See Listener."""
        logger.info("%s: unit %d, %s, %.1f s", commit.stage, commit.unit, commit.tally, commit.seconds)

    def stage_ended(self, stage: str, tally: Tally, seconds: float) -> None:
        """See Listener."""
        logger.info("%s: %s, %.1f s", stage, tally, seconds)

    def warn(self, text: str) -> None:
        """See Listener."""
        logger.warning("%s", text)
