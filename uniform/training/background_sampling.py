"""`uniform train --samples`: a background process samples from checkpoints while the run continues."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniform.checkpoint_format import step_of
from uniform.errors import InputError
from uniform.training.sample_metrics import SampleMetrics

if TYPE_CHECKING:
    from uniform.training.reporting.observer import Observer, Progress

logger = logging.getLogger(__name__)
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables of a distributed process; the sampler runs without them."""


class BackgroundSampling:
    """Runs `uniform sample` on checkpoints in a background process, so that the trainer loads no codec and never waits.

    Checkpoints that are saved during sampling are not sampled, except the last of a finished run. All samples go to
    <run>/samples and its gallery page.
    """

    def __init__(self, prompts: Path, out: Path, every: int, metrics: SampleMetrics | None = None) -> None:
        """Open nothing yet.

        Args:
            every: minimum of steps between two sampled checkpoints.
            metrics: measures finished samples; None measures none.
        Raises: InputError where the file of prompts is not there.
        """
        if not prompts.is_file():
            raise InputError(f"{prompts}: no such file of prompts; one prompt a line, see uniform sample --help")
        self._prompts, self._out, self._every = prompts, out / "samples", every
        self._child: subprocess.Popen[bytes] | None = None
        self._saved: Path | None = None
        self._sampled: Path | None = None
        self._metrics = metrics
        self._measured: Path | None = None

    def report_to(self, others: "Sequence[Observer]") -> None:
        """See `observer.Reporter`: the others get the metrics of samples."""
        if self._metrics is not None:
            self._metrics.listeners = others

    def started(self, summary: Mapping[str, Any]) -> None:
        self._out.mkdir(parents=True, exist_ok=True)

    def progressed(self, progress: "Progress") -> None:
        self._measure()

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def saved(self, path: Path) -> None:
        self._saved = path
        self._measure()
        busy = self._child is not None and self._child.poll() is None
        if not busy and (self._sampled is None or step_of(path) - step_of(self._sampled) >= self._every):
            self._sample(path)

    def ended(self, step: int, why: str) -> None:
        """Wait for the last samples of a finished run; end the sampling of a stopped one, it can be done later."""
        if why != "finished":
            if self._child is not None:
                self._child.terminate()
                self._child.wait()
            if self._metrics is not None:
                self._metrics.stop()
            return
        code = 0 if self._child is None else self._child.wait()
        if self._saved is not None and self._saved != self._sampled:
            code = self._sample(self._saved).wait()
        if code != 0:
            logger.warning("sampling from the last checkpoint failed; see %s", self._out / "sample.log")
        self._measure()
        if self._metrics is not None:
            self._metrics.finish()

    def _measure(self) -> None:
        """Hand finished samples to the metrics, once."""
        if self._metrics is None:
            return
        child, sampled = self._child, self._sampled
        if child is not None and sampled is not None and sampled != self._measured and child.poll() == 0:
            self._measured = sampled
            self._metrics.measure(sampled.name)
        self._metrics.poll()

    def _sample(self, path: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "cli.main", "sample", "--checkpoint", str(path)]
        command += ["--prompts", str(self._prompts), "--name", path.name, "--out", str(self._out)]
        environment = {name: value for name, value in os.environ.items() if name not in TORCHRUN_VARIABLES}
        with (self._out / "sample.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        self._sampled = path
        return self._child
