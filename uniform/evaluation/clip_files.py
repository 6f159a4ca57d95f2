"""What is known of the files of a set before any is decoded: digest and header, kept so that no file is read twice.

A file whose path, size and time of change are as recorded is not opened again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniform.errors import InputError, MediaError
from uniform.evaluation.feature_store import PART_CLIPS
from uniform.evaluation.file_records import read_records, write_records
from uniform.evaluation.sets import ClipFile, ClipSet
from uniform.fingerprint import file_sha256
from uniform.media.sandbox import MediaSandbox

FOLDER_NAME = "files"
PASSING_CODES = ("unreadable_source", "disk_full", "missing_source")
"""The disk's fault, not the file's: asked again in the next run, and never kept."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """Of one file."""

    path: str
    size: int
    changed_ns: int
    sha256: str
    """Empty where the file cannot be read."""
    duration_s: float | None
    fps: float | None
    code: str
    """"ok", or why the file is no use."""
    reason: str

    @property
    def usable(self) -> bool:
        """Whether the file can be opened."""
        return self.code == "ok"


def inspect(
    clips: ClipSet,
    cache: Path,
    *,
    workers: int,
    progress: Callable[[int, int], None],
    sandboxes: Sequence[MediaSandbox],
) -> tuple[list[FileState], int]:
    """States of every clip's file, in the set's order, and how many files were opened for them."""
    known = {(row["path"], row["size"], row["changed_ns"]): row for row in read_records(cache / FOLDER_NAME)}
    states: list[FileState | None] = []
    pending: list[tuple[int, ClipFile]] = []
    for number, clip in enumerate(clips.clips):
        row = _recorded(clip.path, known)
        states.append(row)
        if row is None:
            pending.append((number, clip))
    done = len(clips.clips) - len(pending)
    progress(done, len(clips.clips))
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(pending), PART_CLIPS):
            part = pending[begin : begin + PART_CLIPS]
            jobs = [pool.submit(_look, clip.path, sandboxes[n % len(sandboxes)]) for n, (_, clip) in enumerate(part)]
            found = []
            for (number, _), job in zip(part, jobs, strict=True):
                found.append(job.result())
                states[number] = found[-1]
                done += 1
                progress(done, len(clips.clips))
            write_records(cache / FOLDER_NAME, [row.__dict__ for row in found if row.code not in PASSING_CODES])
    return [row for row in states if row is not None], len(pending)


@contextlib.contextmanager
def open_sandboxes(count: int) -> Iterator[list[MediaSandbox]]:
    """Several media sandboxes that end together. Raises InputError for none."""
    if count < 1:
        raise InputError(f"workers is {count}; wanted 1 or more")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(MediaSandbox()) for _ in range(count)]


def _recorded(path: Path, known: dict[tuple[str, int, int], dict[str, Any]]) -> FileState | None:
    try:
        state = path.stat()
    except OSError:
        return None
    row = known.get((str(path.absolute()), state.st_size, state.st_mtime_ns))
    return None if row is None else FileState(**row)


def _look(path: Path, sandbox: MediaSandbox) -> FileState:
    size = changed_ns = 0
    sha256, duration_s, fps, code, reason = "", None, None, "ok", ""
    try:
        state = path.stat()
        size, changed_ns = state.st_size, state.st_mtime_ns
        sha256 = file_sha256(path)
        header = sandbox.probe(path)
        duration_s, fps = header.duration_s, header.fps
    except MediaError as error:
        code, reason = error.code, error.reason
    except OSError as error:
        code, reason = "unreadable_source", f"cannot be read ({error.strerror})"
    return FileState(
        path=str(path.absolute()),
        size=size,
        changed_ns=changed_ns,
        sha256=sha256,
        duration_s=duration_s,
        fps=fps,
        code=code,
        reason=reason,
    )
