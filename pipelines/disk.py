"""Errors of the operating system about a disk, as messages that name the next step."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from uniform.errors import PipelineError


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn an OSError of writing below `folder` into a PipelineError that names the next step."""
    try:
        yield
    except OSError as error:
        explained = explain_disk_error(error, folder)
        if explained is None:
            raise
        raise explained from error


def explain_disk_error(error: OSError, folder: Path) -> PipelineError | None:
    """A PipelineError for a full disk or an unwritable folder; None for any other error."""
    if is_disk_full(error):
        return PipelineError(
            f"{folder}: no space left ({error.strerror}). Units that were committed are safe and nothing half-written "
            f"is visible. Free some space, then run the same command again: it goes on where it stopped."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return PipelineError(
            f"{error.filename or folder}: cannot be written ({error.strerror}). "
            f"Choose another --out, or change the permissions of this one."
        )
    return None


def is_disk_full(error: OSError) -> bool:
    """True where the disk, a quota or a limit on file sizes left no space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
