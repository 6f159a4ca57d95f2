"""Metrics of background samples during training: `uniform evaluate` in a background process, its numbers logged.

The trainer imports neither codecs nor metrics and never waits. Each number goes to <run>/sample_metrics.jsonl with N
and interval, into the curve, and to the trackers as `validation/metrics/NAME`, `..._low`, `..._high`, `..._n`.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.checkpoint_format import step_of
from uniform.errors import ConfigError
from uniform.training.reporting.curve import SAMPLE_METRICS_NAME, draw_curve, read_sample_metrics
from uniform.training.reporting.observer import Observer
from uniform.training.settings.config import ValidationConfig

logger = logging.getLogger(__name__)
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


class SampleMetrics:
    """Runs `uniform evaluate` on the samples of one checkpoint after the other; of several that wait, the newest.

    Args:
        config: names metrics, real clips and protocol.
        out: the run directory.
    Raises: ConfigError where the real clips are not there.
    """

    def __init__(self, config: ValidationConfig, out: Path) -> None:
        if config.real is None or not config.real.exists():
            raise ConfigError(f"validation.real is {config.real}; wanted the real clips that metrics compare with")
        self._config, self._out = config, out
        self.listeners: Sequence[Observer] = ()
        """They get every checkpoint's numbers, as validation losses."""
        self._child: subprocess.Popen[bytes] | None = None
        self._name: str | None = None
        self._next: str | None = None

    def measure(self, name: str) -> None:
        """The samples whose names begin with `name` are finished: measure them as soon as no other are measured."""
        self._next = name
        self.poll()

    def poll(self) -> None:
        """Log what is finished, and start what waits."""
        if self._child is not None and self._child.poll() is not None:
            self._record()
        if self._child is None and self._next is not None:
            self._start(self._next)
            self._next = None

    def finish(self) -> None:
        """Wait for everything that was asked for."""
        while self._child is not None:
            self._child.wait()
            self.poll()

    def stop(self) -> None:
        """End the measuring; it can be done later with `uniform evaluate`."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()
            self._child = None

    def _start(self, name: str) -> None:
        samples = self._out / "samples"
        found = [path for path in sorted(samples.glob("*.mp4")) if f"{path.stem}-".startswith(f"{name}-")]
        listing, folder = self._out / "metrics" / f"{name}.jsonl", self._out / "metrics" / name
        lines = [json.dumps({"clip_id": path.stem, "path": os.path.relpath(path, listing.parent)}) for path in found]
        write_bytes(listing, ("\n".join(lines) + "\n").encode())
        command = [sys.executable, "-m", "cli.main", "evaluate", "run", str(listing), "--root", str(self._out)]
        command += ["--real", str(self._config.real), "--protocol", self._config.protocol, "--out", str(folder)]
        command += ["--metrics", ",".join(self._config.metrics), "--allow-unequal", "--workers", "1"]
        environment = {key: value for key, value in os.environ.items() if key not in TORCHRUN_VARIABLES}
        with (self._out / "metrics" / "evaluate.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        self._name = name

    def _record(self) -> None:
        child, name = self._child, self._name
        self._child = None
        assert child is not None
        assert name is not None
        result = self._out / "metrics" / name / "result.json"
        if child.wait() != 0 or not result.is_file():
            logger.warning("the samples of %s could not be measured; see %s", name, result.parents[1] / "evaluate.log")
            return
        cells = json.loads(result.read_bytes())["rows"]["generated"]
        keys = ("value", "low", "high", "clips", "resolved")
        metrics = {one: {key: cell.get(key) for key in keys} for one, cell in cells.items()}
        self._append(step_of(Path(name)), metrics)

    def _append(self, step: int, metrics: dict[str, dict[str, Any]]) -> None:
        """Log one checkpoint's numbers; those of an earlier measuring of the same step are replaced."""
        lines = [line for line in read_sample_metrics(self._out) if line["step"] != step]
        lines = sorted([*lines, {"step": step, "metrics": metrics}], key=lambda line: line["step"])
        text = "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines)
        write_bytes(self._out / SAMPLE_METRICS_NAME, text.encode())
        numbers = {
            f"metrics/{name}{suffix}": float(cell[key])
            for name, cell in metrics.items()
            for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high"), ("clips", "_n"))
            if cell[key] is not None
        }
        for listener in self.listeners:
            listener.validated(step, numbers)
        draw_curve(self._out)
