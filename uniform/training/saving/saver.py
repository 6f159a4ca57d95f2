"""Writes checkpoints in a thread while training continues."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from uniform.checkpoint_format import Snapshot, checkpoint_path, newest_checkpoint, prune, step_of, write_checkpoint
from uniform.training.settings.config import CheckpointConfig


class Saver:
    """Writes one snapshot at a time and removes old ones. A write that failed is raised by the next call."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder, self.config = folder, config
        found = self.newest()
        self.step: int | None = None if found is None else step_of(found)
        """Step of the last snapshot handed over; after a resume, of the checkpoint that was loaded."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> list[Path]:
        """Begin to write. Returns: checkpoints finished since the last call. Raises: TrainingError."""
        done = self.wait()
        self._writing = self._pool.submit(self._write, snapshot)
        return done if self.config.background else [*done, *self.wait()]

    def finished(self) -> list[Path]:
        """As `wait`, without waiting: an empty list during a write."""
        return self.wait() if self._writing is not None and self._writing.done() else []

    def wait(self) -> list[Path]:
        """Return when nothing is being written. Returns: as `save`. Raises: TrainingError."""
        if self._writing is None:
            return []
        writing, self._writing = self._writing, None
        return [writing.result()]

    def close(self) -> None:
        """Finish the current write and end the thread."""
        self._pool.shutdown(wait=True)

    def newest(self) -> Path | None:
        """The newest intact checkpoint on disk."""
        return newest_checkpoint(self.folder)

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return checkpoint_path(self.folder, step)

    def _write(self, snapshot: Snapshot) -> Path:
        path = write_checkpoint(self.folder, snapshot)
        best = snapshot.metadata.get("best")
        prune(self.folder, self.config.keep_last, self.config.keep_every, keep=None if best is None else best[1])
        return path
