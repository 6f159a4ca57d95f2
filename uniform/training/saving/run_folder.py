"""The folder of a run: one trainer at a time, and the lines that it writes down.

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
CHECKPOINTS_NAME = "checkpoints"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder. The lock dies with the process, however that ends.

    Raises: TrainingError where another trainer holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
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
    """Write down every value that the run goes on with, for people; checkpoints hold what they were made with."""
    path = folder / CONFIG_NAME
    with telling(path):
        write_bytes(path, f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode())


class MetricsLog:
    """metrics.jsonl: one JSON line per step and per window. A line is written whole; a cut last line is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after `step` finished steps: lines of later steps are of a run that was lost, and leave."""
        self.path = folder / METRICS_NAME
        lines = [json.dumps(line, sort_keys=True) for line in read_metrics_log(folder) if line["step"] <= step]
        with telling(self.path):
            write_bytes(self.path, "".join(f"{line}\n" for line in lines).encode())
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it has "kind" and "step". A number that is not finite becomes null. Raises: TrainingError."""
        sound = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        with telling(self.path):
            self._file.write(json.dumps(sound, sort_keys=True) + "\n")

    def flush(self) -> None:
        """Hand what was written to the operating system. Raises: TrainingError."""
        with telling(self.path):
            self._file.flush()

    def close(self) -> None:
        """Write what is left. Raises: TrainingError."""
        with telling(self.path):
            self._file.close()


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Say in words what the operating system has against writing `path`."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}). Make room, then start the same command again."
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
