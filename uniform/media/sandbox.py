"""Decode untrusted files in a child process: a crash, a hang or a memory bomb costs one file, not the worker.

The child is a fresh interpreter that imports PyAV and NumPy (never torch), decodes many files and answers in plain
data. It starts when first needed, is killed at its time limit, is replaced when it dies, and is renewed every few
hundred files so that memory leaks stay bounded.
"""

import contextlib
import io
import json
import os
import re
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import uniform
from uniform.errors import ConfigError, MediaError, PipelineError
from uniform.media.child import FRAMES_NAME, MP4_NAME, READY, WAVEFORM_NAME
from uniform.media.encode import CLIP_CRF, CLIP_PRESET
from uniform.media.notes import Note, read_note
from uniform.media.video import Fit
from uniform.spec import Spec
from uniform.untrusted_json import read_untrusted_json

MIN_MEMORY_MB = 192
"""Below this the child cannot decode even a small frame."""
START_LIMIT_S = 60.0
MAX_ANSWER_BYTES = 1 << 16
MAX_FILE_BYTES = 1 << 30
CODE = re.compile(r"[a-z0-9_]{1,40}")
PASSED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Environment variables that the child sees beside PYTHONPATH: no keys, tokens or addresses."""


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """A normalised clip, which any player and every later stage can read."""

    mp4: bytes
    """H.264 and FLAC in MP4: exactly spec.frames frames and spec.samples samples."""
    notes: tuple[Note, ...]
    """For instance on gaps in the audio."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A decoded clip of any media file."""

    frames: NDArray[np.uint8] | None
    """(spec.frames, spec.height_px, spec.width_px, 3) RGB; None where video was not requested."""
    waveform: NDArray[np.float32] | None
    """(spec.samples,) mono, full scale = 1.0; None where audio was not requested. (C, samples) with `native_audio`."""
    notes: tuple[Note, ...]
    rate_hz: int | None = None
    """Samples per second of the waveform."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file's header says; see `uniform.media.decode.Header`."""

    duration_s: float | None
    fps: float | None
    height_px: int
    width_px: int
    has_audio: bool


class MediaSandbox:
    """A decoder in a long-lived child process. Safe to share between threads; decodes one file at a time.

    Args:
        time_limit_s: wall-clock seconds for one file.
        memory_limit_mb: memory limit of the child.
        recycle_after: number of files after which the child is replaced.
    """

    def __init__(self, *, time_limit_s: float = 60.0, memory_limit_mb: int = 1536, recycle_after: int = 500) -> None:
        if time_limit_s <= 0 or memory_limit_mb < MIN_MEMORY_MB or recycle_after < 1:
            raise ConfigError(
                f"sandbox: time_limit_s is {time_limit_s}, memory_limit_mb {memory_limit_mb}, recycle_after "
                f"{recycle_after}; wanted more than 0, {MIN_MEMORY_MB} or more, 1 or more"
            )
        self._time_limit_s, self._memory_limit_mb = time_limit_s, memory_limit_mb
        self._recycle_after = recycle_after
        self._folder = tempfile.TemporaryDirectory(prefix="uniform-media-")
        self._child: subprocess.Popen[bytes] | None = None
        self._served = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "MediaSandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def child_id(self) -> int | None:
        """Process id of the child; None where none runs."""
        return None if self._child is None else self._child.pid

    def normalise(
        self,
        path: Path,
        spec: Spec,
        start_ms: int = 0,
        *,
        fit: Fit = "crop",
        crf: int = CLIP_CRF,
        preset: str = CLIP_PRESET,
    ) -> Normalised:
        """Cut the clip that starts at `start_ms` out of `path` and write it as a normalised MP4 file.

        Raises: MediaError with a code of the ledger where the file, or this part of it, cannot be used.
        """
        request = {"spec": asdict(spec), "start_ms": start_ms, "fit": fit}
        with self._lock:
            answer = self._request({"path": str(path), "request": request, "mp4": {"crf": crf, "preset": preset}})
            return Normalised(mp4=self._content(MP4_NAME, MAX_FILE_BYTES), notes=_notes(answer))

    def load(
        self,
        path: Path,
        spec: Spec,
        start_ms: int = 0,
        *,
        want_video: bool = True,
        want_audio: bool = True,
        fit: Fit = "crop",
        native_audio: bool = False,
    ) -> Loaded:
        """Decode the clip that starts at `start_ms`: frames, audio or both, of any media file.

        Without video, audio that ends before the clip is padded with silence, with a note. `native_audio` gives every
        channel at the file's own rate, in place of mono at the spec's.
        Raises: MediaError with a code of the ledger where the file, or this part of it, cannot be used.
        """
        request = {
            "spec": asdict(spec),
            "start_ms": start_ms,
            "want_video": want_video,
            "want_audio": want_audio,
            "fit": fit,
            "native_audio": native_audio,
        }
        with self._lock:
            answer = self._request({"path": str(path), "request": request, "mp4": None})
            size = (spec.frames, spec.height_px, spec.width_px, 3)
            frames = self._array(FRAMES_NAME, size, np.dtype(np.uint8)) if want_video else None
            length = None if native_audio else (spec.samples,)
            waveform = self._array(WAVEFORM_NAME, length, np.dtype(np.float32)) if want_audio else None
            notes = _notes(answer)
            return Loaded(frames=frames, waveform=waveform, notes=notes, rate_hz=_rate_hz(answer))

    def probe(self, path: Path) -> Header:
        """What the header of `path` says. Raises: MediaError where the file cannot be opened."""
        with self._lock:
            answer = self._request({"path": str(path), "probe": True})
            try:
                return Header(**answer["header"])
            except (KeyError, TypeError) as error:
                raise _no_answer("a header of no known form") from error

    def close(self) -> None:
        """End the child and remove its folder. The sandbox cannot be used afterwards."""
        with self._lock:
            self._end_child()
            self._folder.cleanup()

    def _array(self, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
        max_bytes = MAX_FILE_BYTES if shape is None else int(np.prod(shape)) * dtype.itemsize + MAX_ANSWER_BYTES
        content = self._content(name, max_bytes)
        try:
            loaded: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise _no_answer(f"{name} is no array") from error
        if not isinstance(loaded, np.ndarray) or shape not in (None, loaded.shape) or loaded.dtype != dtype:
            raise _no_answer(f"{name} has another shape or type than asked for")
        return loaded

    def _content(self, name: str, max_bytes: int) -> bytes:
        """A result file of the child. Links are not followed; only a regular file of a sane size is read."""
        try:
            handle = os.open(Path(self._folder.name) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise _no_answer(f"{name} cannot be opened ({error.strerror})") from error
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes or status.st_nlink != 1:
                raise _no_answer(f"{name} is not a regular file of at most {max_bytes:,} bytes")
            return file.read(max_bytes)

    def _request(self, job: Mapping[str, Any]) -> dict[str, Any]:
        if self._served >= self._recycle_after:
            self._end_child()
        if self._child is None or self._child.poll() is not None:
            self._start_child()
        assert self._child is not None
        assert self._child.stdin is not None
        self._served += 1
        started = time.monotonic()
        try:
            self._child.stdin.write(json.dumps(job).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._died(started) from None
        try:
            answer = read_untrusted_json(self._read_line(started, self._time_limit_s), max_bytes=MAX_ANSWER_BYTES)
        except ValueError as error:
            self._end_child()
            raise _no_answer(str(error)) from error
        if isinstance(answer, dict) and (
            isinstance(answer.get("notes"), list) or isinstance(answer.get("header"), dict)
        ):
            return answer
        code, reason = (answer.get("code"), answer.get("reason")) if isinstance(answer, dict) else (None, None)
        if not (isinstance(code, str) and CODE.fullmatch(code) and isinstance(reason, str)):
            self._end_child()
            raise _no_answer("neither notes nor a code")
        if code == "decode_memory":
            self._end_child()  # a failed allocation can leave the heap fragmented
        raise MediaError(code, reason)

    def _read_line(self, started: float, limit_s: float) -> bytes:
        """Read one line of the child's answer. Ends the child and raises MediaError at the time limit."""
        assert self._child is not None
        assert self._child.stdout is not None
        handle = self._child.stdout.fileno()
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left_s = limit_s - (time.monotonic() - started)
                if left_s <= 0 or not selector.select(left_s):
                    self._end_child()
                    raise MediaError("decode_timeout", f"decoding took longer than {limit_s:g} s")
                chunk = os.read(handle, 1 << 16)
                if not chunk:
                    raise self._died(started)
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    self._end_child()
                    raise _no_answer(f"more than {MAX_ANSWER_BYTES:,} bytes")
        return received

    def _died(self, started: float) -> MediaError:
        assert self._child is not None
        status = self._child.wait()
        self._end_child()
        cause = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        return MediaError(
            "decode_crash", f"the decoder's process died ({cause}) after {time.monotonic() - started:.1f} s"
        )

    def _start_child(self) -> None:
        root = str(Path(uniform.__file__).resolve().parent.parent)
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        limits = [str(self._memory_limit_mb), str(self._time_limit_s)]
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "uniform.media.child", self._folder.name, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ} | {"PYTHONPATH": search},
            start_new_session=True,  # only the parent handles Ctrl-C
        )
        self._served = 0
        try:
            greeting = self._read_line(time.monotonic(), START_LIMIT_S)
        except MediaError as error:
            raise PipelineError(
                f"media sandbox: the child process did not start ({error.reason}). Raise memory_limit_mb "
                f"(now {self._memory_limit_mb}), or run 'uniform doctor'"
            ) from error
        if greeting != READY:
            raise PipelineError("media sandbox: the child process did not greet. Run 'uniform doctor'")

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _no_answer(what: str) -> MediaError:
    return MediaError("decode_crash", f"the decoder's process gave no valid answer: {what}")


def _notes(answer: dict[str, Any]) -> tuple[Note, ...]:
    try:
        return tuple(read_note(str(text)) for text in answer["notes"])
    except (PipelineError, TypeError, ValueError, KeyError) as error:
        raise _no_answer("a note of no known form") from error


def _rate_hz(answer: dict[str, Any]) -> int | None:
    rate_hz = answer.get("rate_hz")
    if rate_hz is None or (isinstance(rate_hz, int) and rate_hz > 0):
        return rate_hz
    raise _no_answer("a sample rate that is no positive number")
