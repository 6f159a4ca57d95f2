"""The sandbox's child process: reads jobs from standard input, decodes, and answers in plain data.

A job and an answer are one line of JSON each. Results are files in the folder that the parent chose, so a decoder that
writes to standard output, or crashes, cannot forge or damage an answer.
"""

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from uniform.errors import MediaError
from uniform.media.container import refuse_unreadable
from uniform.media.decode import Decoded, Request, decode, probe
from uniform.media.encode import Mp4Settings, to_int16, write_mp4
from uniform.media.video import as_rgb
from uniform.spec import Spec

MP4_NAME, FRAMES_NAME, WAVEFORM_NAME = "clip.mp4", "frames.npy", "waveform.npy"
READY = b"ready\n"
"""The child's first line, after imports and limits are set."""
MAX_OUTPUT_BYTES = 1 << 30
GRACE = 2.0
"""The child ends itself at this multiple of its time limit, in case the parent is gone."""


def serve(folder: Path, memory_limit_mb: int, time_limit_s: float) -> None:
    """Answer jobs until standard input closes. Answers go to the original standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with answers
    av.logging.set_level(av.logging.PANIC)
    _limit(memory_limit_mb)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers.write(READY.decode())
    answers.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, GRACE * time_limit_s)
        answer = _answer(json.loads(line), folder)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    shutil.rmtree(folder, ignore_errors=True)  # the parent is gone: it ends this process otherwise


def _answer(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        if job.get("probe"):
            return {"notes": [], "header": asdict(probe(Path(job["path"])))}
        decoded = decode(Path(job["path"]), _request(job["request"]))
        if job["mp4"] is None:
            _save_arrays(decoded, folder)
        else:
            _save_mp4(decoded, Spec(**job["request"]["spec"]), job["mp4"], folder / MP4_NAME)
        return {"notes": [note.text() for note in decoded.notes], "rate_hz": decoded.rate_hz}
    except MediaError as error:
        return {"code": error.code, "reason": error.reason}
    except MemoryError:
        return {"code": "decode_memory", "reason": "decoding needs more memory than the limit"}
    except (av.PatchWelcomeError, av.DecoderNotFoundError, NotImplementedError) as error:
        return {"code": "unsupported", "reason": _message(error)}
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        return _refusal(error, Path(job["path"]), folder)
    except Exception as error:  # a bug that one file triggers: report it, and go on with other clips
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {"code": "decode_crash", "reason": f"{type(error).__name__} at {where}: {_message(error)}"}


def _refusal(error: Exception, path: Path, folder: Path) -> dict[str, str]:
    """Code and reason: whether the disk or the content of the file is at fault."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"code": "disk_full", "reason": f"no space left for the decoded clip in {folder}"}
    try:
        refuse_unreadable(path, error)
    except MediaError as refused:
        return {"code": refused.code, "reason": refused.reason}
    return {"code": "decode_corrupt", "reason": f"{type(error).__name__}: {_message(error)}"}


def _request(fields: dict[str, Any]) -> Request:
    return Request(**{**fields, "spec": Spec(**fields["spec"])})


def _save_mp4(decoded: Decoded, spec: Spec, settings: dict[str, Any], path: Path) -> None:
    assert decoded.frames is not None
    assert decoded.waveform is not None
    mp4 = Mp4Settings(fps=Fraction(spec.fps), rate_hz=spec.rate_hz, **settings)
    write_mp4(path, decoded.frames, to_int16(decoded.waveform), mp4)


def _save_arrays(decoded: Decoded, folder: Path) -> None:
    if decoded.frames is not None:
        np.save(folder / FRAMES_NAME, np.stack([as_rgb(frame) for frame in decoded.frames]), allow_pickle=False)
    if decoded.waveform is not None:
        np.save(folder / WAVEFORM_NAME, decoded.waveform, allow_pickle=False)


def _message(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _limit(memory_limit_mb: int) -> None:
    """Memory, output and core dumps are limited; new privileges are refused (Linux)."""
    memory = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    for kind, amount in (
        (memory, memory_limit_mb << 20),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))
    if sys.platform == "linux":
        pr_set_no_new_privs = 38
        ctypes.CDLL(None).prctl(pr_set_no_new_privs, 1, 0, 0, 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
