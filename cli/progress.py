"""Progress of running work: live bars on a terminal, plain log lines elsewhere."""

import logging
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cli import console

if TYPE_CHECKING:
    from pipelines.run.commits import Commit
    from pipelines.run.ledger import Tally
    from uniform.sampling.sampler import Progress as SamplerProgress

log = logging.getLogger(__name__)

RATE_WINDOW_S = 120.0
"""Clips per second and the time left are those of the last two minutes."""


class _Rate(ProgressColumn):
    """Clips per second."""

    def render(self, task: Task) -> Text:
        """One cell."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} clips/s" if speed else "- clips/s", style="cyan")


class Bars:
    """One bar per stage. A listener of `pipelines.run.pipeline`, and a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("[green]{task.fields[kept]} kept[/] [yellow]{task.fields[rejected]} rejected[/]"),
            TextColumn("[red]{task.fields[failed]} failed[/]"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console.err,
            speed_estimate_period=RATE_WINDOW_S,
        )
        self._bar = self._bars.add_task("", total=0, visible=False, kept=0, rejected=0, failed=0)
        self._kept = self._rejected = self._failed = 0

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage_started(self, stage: str, units: int, clips: int, done: "Tally") -> None:
        """See `pipelines.run.pipeline.Listener`."""
        self._kept, self._rejected, self._failed = done.kept, done.rejected, done.failed
        self._bar = self._bars.add_task(
            stage,
            total=clips + done.clips,
            completed=done.clips,
            kept=done.kept,
            rejected=done.rejected,
            failed=done.failed,
        )

    def unit_done(self, commit: "Commit") -> None:
        """See `pipelines.run.pipeline.Listener`."""
        self._kept += commit.tally.kept
        self._rejected += commit.tally.rejected
        self._failed += commit.tally.failed
        self._bars.update(
            self._bar, advance=commit.clips, kept=self._kept, rejected=self._rejected, failed=self._failed
        )

    def stage_ended(self, stage: str, tally: "Tally", seconds: float) -> None:
        """See `pipelines.run.pipeline.Listener`."""
        self._bars.update(self._bar, completed=tally.clips, total=tally.clips)
        self._bars.stop_task(self._bar)

    def warn(self, text: str) -> None:
        """See `pipelines.run.pipeline.Listener`."""
        self._bars.console.print(text, style="yellow", markup=False)


class SampleBars(Progress):
    """Samples and solver steps with the time left; without a terminal, a line when samples are done."""

    def __init__(self, samples: int, steps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console.err, disable=not console.err.is_terminal)
        self._samples = self.add_task("samples", total=samples)
        self._reported = 0
        self._steps = self.add_task("steps", total=steps)

    def show(self, state: "SamplerProgress") -> None:
        if self.disable and state.done != self._reported:
            log.info("%d of %d samples done", state.done, state.total)
            self._reported = state.done
        self.update(self._samples, completed=state.done)
        self.update(self._steps, completed=state.step)
