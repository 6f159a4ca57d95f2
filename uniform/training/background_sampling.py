"""`uniform train --samples`: a process aside samples from checkpoints while the run goes on."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniform.errors import InputError
from uniform.training.saving.checkpoints import step_of

if TYPE_CHECKING:
    from uniform.training.reporting.observer import Progress

logger = logging.getLogger(__name__)
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What makes a process one of many; the sampler is alone."""


class BackgroundSampling:
    """After checkpoints, `uniform sample` in a process aside: the trainer knows no codec, and waits for nobody.

    While one is at work, checkpoints pass without samples, but for the last of a finished run. All go to
    <run>/samples, whose gallery page grows.
    """

    def __init__(self, prompts: Path, out: Path, every: int) -> None:
        """Args: every: steps that lie between two sampled checkpoints at least. Raises: InputError."""
        if not prompts.is_file():
            raise InputError(f"{prompts}: no such file of prompts; one prompt a line, see uniform sample --help")
        self._prompts, self._out, self._every = prompts, out / "samples", every
        self._child: subprocess.Popen[bytes] | None = None
        self._saved: Path | None = None
        self._sampled: Path | None = None

    def started(self, facts: Mapping[str, Any]) -> None:
        self._out.mkdir(parents=True, exist_ok=True)

    def progressed(self, progress: "Progress") -> None:
        pass

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def saved(self, path: Path) -> None:
        self._saved = path
        busy = self._child is not None and self._child.poll() is None
        if not busy and (self._sampled is None or step_of(path) - step_of(self._sampled) >= self._every):
            self._sample(path)

    def ended(self, step: int, why: str) -> None:
        """A finished run waits for its last samples; one that was asked to stop does not, they can be made later."""
        if why != "finished":
            if self._child is not None:
                self._child.terminate()
                self._child.wait()
            return
        code = 0 if self._child is None else self._child.wait()
        if self._saved is not None and self._saved != self._sampled:
            code = self._sample(self._saved).wait()
        if code != 0:
            logger.warning("sampling from the last checkpoint failed; see %s", self._out / "sample.log")

    def _sample(self, path: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "cli.main", "sample", "--checkpoint", str(path)]
        command += ["--prompts", str(self._prompts), "--name", path.name, "--out", str(self._out)]
        alone = {name: value for name, value in os.environ.items() if name not in OF_TORCHRUN}
        with (self._out / "sample.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=alone)
        self._sampled = path
        return self._child
