"""The folder of a run: its lock, config.json and metrics.jsonl.

<run>/config.json  metrics.jsonl  tensorboard/  curve.png  checkpoints/  run.lock
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.errors import TrainingError

LOCK_NAME = "run.lock"
CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder for one trainer. The operating system releases the lock when the process ends.

    Raises: TrainingError where another trainer holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}). Choose another `out`.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown"
            raise TrainingError(
                f"{folder}: another trainer (process {owner}) is running there. Wait for it, stop it, or choose "
                f"another folder: out=..."
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write all values of the run's configuration to config.json, for people to read; resuming uses checkpoint.json."""
    path = folder / CONFIG_NAME
    with write_errors(path):
        write_bytes(path, f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode())


class MetricsLog:
    """metrics.jsonl: one JSON line per step and per window; a line cut short by a kill is dropped when it is opened."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the log of a run that has finished `step` steps; lines of later steps are removed."""
        self.path = folder / METRICS_NAME
        lines = [json.dumps(line, sort_keys=True) for line in read_metrics_log(folder) if line["step"] <= step]
        with write_errors(self.path):
            write_bytes(self.path, "".join(f"{line}\n" for line in lines).encode())
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it has "kind" and "step". A number that is not finite becomes null. Raises: TrainingError."""
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        with write_errors(self.path):
            self._file.write(json.dumps(finite, sort_keys=True) + "\n")

    def flush(self) -> None:
        """Flush buffered lines to the file. Raises: TrainingError."""
        with write_errors(self.path):
            self._file.flush()

    def close(self) -> None:
        """Write buffered lines and close the file. Raises: TrainingError."""
        with write_errors(self.path):
            self._file.close()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into a TrainingError with the reason."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}). Free some disk space, then start the same command again."
        ) from error


def read_metrics_log(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, of one kind or all; [] where there is none."""
    path = folder / METRICS_NAME
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut by a kill; the checkpoint is older than it
        if kind is None or line["kind"] == kind:
            lines.append(line)
    return lines
