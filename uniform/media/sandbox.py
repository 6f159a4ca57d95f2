"""Decode untrusted files in a child process: a crash, a hang or a memory bomb costs one file, not the worker.

The child is a fresh interpreter that imports PyAV and NumPy (never torch), decodes many files and answers in plain
data. It starts when first needed, is killed at its time limit, is replaced when it dies, and is renewed every few
hundred files so that memory leaks stay bounded.
"""

import contextlib
import json
import os
import selectors
import signal
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

MIN_MEMORY_MB = 192
"""Below this the child cannot decode even a small frame."""
START_LIMIT_S = 60.0


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
            return Normalised(
                mp4=(Path(self._folder.name) / MP4_NAME).read_bytes(), notes=tuple(map(read_note, answer["notes"]))
            )

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
            frames = self._array(FRAMES_NAME) if want_video else None
            waveform = self._array(WAVEFORM_NAME) if want_audio else None
            notes = tuple(map(read_note, answer["notes"]))
            return Loaded(frames=frames, waveform=waveform, notes=notes, rate_hz=answer["rate_hz"])

    def probe(self, path: Path) -> Header:
        """What the header of `path` says. Raises: MediaError where the file cannot be opened."""
        with self._lock:
            answer = self._request({"path": str(path), "probe": True})
            return Header(**answer["header"])

    def close(self) -> None:
        """End the child and remove its folder. The sandbox cannot be used afterwards."""
        with self._lock:
            self._end_child()
            self._folder.cleanup()

    def _array(self, name: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(Path(self._folder.name) / name, allow_pickle=False)
        return loaded

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
        answer: dict[str, Any] = json.loads(self._read_line(started, self._time_limit_s))
        if "code" in answer:
            if answer["code"] == "decode_memory":
                self._end_child()  # a failed allocation can leave the heap fragmented
            raise MediaError(answer["code"], answer["reason"])
        return answer

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
            env={**os.environ, "PYTHONPATH": search},
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
        assert greeting == READY

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
