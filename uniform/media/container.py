"""Open an untrusted file: local bytes and known containers only, with the best streams, refused where truncated.

Used only inside the sandbox's child process. Every refusal is a MediaError with a code of the ledger.
"""

import errno
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from uniform.errors import MediaError
from uniform.media.boxes import refuse_damaged_structure
from uniform.media.frame_sampling import SECOND, Timebase

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2;matroska,webm;avi;mpegts;mpeg;ogg;flv;live_flv;asf;asf_o;gif;mxf;dv;rm;ivf;nut;wtv"
    ";wav;w64;aiff;caf;au;flac;mp3;aac;loas;ac3;eac3;amr;wv;tta;ape;dts;voc"
)
"""Allowed demuxers. None opens another file: playlists (hls, dash, concat) and images are excluded."""
PROMISING = ("mov", "matroska", "avi", "flv", "asf")
"""Demuxers whose duration comes from the header; the others measure the data."""
MAX_PIXELS = 36_000_000
"""A little above 8K; each frame in a decoder's memory costs one and a half to six bytes per pixel."""
MAX_CHANNELS = 64
HEAD_BYTES = 1024
UNREADABLE = (errno.EIO, errno.ESTALE, errno.EACCES)
"""Error numbers of a failing disk, network folder or permission, not of the content of the file."""
READ_BYTES = 1 << 20
FILE_PREFIX = "file:"
"""Makes FFmpeg read a name such as "-x.mp4" or "concat:a|b" as a path only."""


@dataclass(frozen=True)
class Source:
    """An opened file and its best video and audio stream."""

    container: Any
    video: Any | None
    audio: Any | None
    zero_ns: int
    """Time 0 of the file's clips on the container's clock: the first frame, or the first audio sample without video."""


def open_source(path: Path) -> Source:
    """Open `path` and choose its streams. The caller closes `source.container`.

    Raises: MediaError: empty_file, not_media, truncated, encrypted, decode_corrupt, too_large, unsupported.
    """
    _refuse_non_file(path)
    refuse_damaged_structure(path)
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS.replace(";", ",")}
    try:
        container = av.open(f"{FILE_PREFIX}{path.absolute()}", options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _why_not_opened(path, error) from error
    try:
        video, audio = _best_video(container), _best_audio(container)
        for stream in filter(None, (video, audio)):
            stream.thread_type = "NONE"  # one core per worker: more threads only raise the cost of a clip
        clock = next(
            (stream for stream in (video, audio) if stream is not None and stream.start_time is not None), None
        )
        zero_ns = 0 if clock is None else Timebase(clock.time_base).ns(clock.start_time)
        return Source(container, video, audio, zero_ns)
    except BaseException:
        container.close()
        raise


def promised_end_ns(container: Any, stream: Any | None = None) -> int | None:
    """End of `stream`, or of the file, by the header; None where the header has no duration."""
    name = container.format.name.split(",")[0]
    if name not in PROMISING:
        return None
    if stream is not None and stream.duration and stream.duration > 0:
        return Timebase(stream.time_base).ns(stream.duration + (stream.start_time or 0))
    if not container.duration or container.duration < 0:
        return None
    # Matroska's Duration is the end on the file's clock; that of the other formats is a length
    start = 0 if name == "matroska" else container.start_time or 0
    return int(container.duration + start) * (SECOND // av.time_base)


def refuse_unreadable(path: Path, error: Exception) -> None:
    """Refuse a file that the disk cannot deliver. Any other error passes to the caller.

    FFmpeg reports damaged or truncated files as input/output errors too, so its error counts only where the file
    cannot be read to its end without FFmpeg.
    Raises: MediaError "unreadable_source".
    """
    if not isinstance(error, OSError) or error.errno not in UNREADABLE:
        return
    if isinstance(error, av.FFmpegError):
        try:
            with path.open("rb") as file:
                while file.read(READ_BYTES):
                    pass
        except OSError as fault:
            error = fault
        else:
            return
    raise MediaError("unreadable_source", f"exists but cannot be read ({error.strerror})") from error


def _refuse_non_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError("missing_source", f"cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("not_media", "not a regular file: a folder, a pipe or a device")
    if status.st_size == 0:
        raise MediaError("empty_file", "zero bytes")


def _why_not_opened(path: Path, error: Exception) -> MediaError:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<mpd")):
        return MediaError("not_media", "a web page or other markup with the name of a media file")
    if text.startswith((b"#extm3u", b"ffconcat", b"[playlist]")):
        return MediaError("not_media", "a playlist: the files that it names are not opened")
    if isinstance(error, av.InvalidDataError) and head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return MediaError("decode_corrupt", f"the table of contents of this MP4 file is damaged ({_message(error)})")
    if isinstance(error, PermissionError):
        return MediaError("missing_source", "cannot be opened (permission denied)")
    return MediaError("not_media", f"no known container ({_message(error)})")


def _message(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0][:120]


def _best_video(container: Any) -> Any | None:
    """The video stream with the most pixels, no cover image; among equals the default one, then the first."""
    usable = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails)
        and stream.codec_context is not None
    ]
    best = max(usable, key=lambda stream: (_pixels(stream), bool(stream.disposition & 1), -stream.index), default=None)
    if best is not None and _pixels(best) > MAX_PIXELS:
        raise MediaError("too_large", f"{best.width} x {best.height} px; the limit is {MAX_PIXELS:,} px")
    return best


def _best_audio(container: Any) -> Any | None:
    """The default audio stream, not one for the impaired; then most channels, highest rate, first."""
    impaired = av.stream.Disposition.visual_impaired | av.stream.Disposition.hearing_impaired
    usable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    best = max(
        usable,
        key=lambda stream: (
            not stream.disposition & impaired,
            bool(stream.disposition & av.stream.Disposition.default),
            stream.codec_context.channels,
            stream.codec_context.sample_rate,
            -stream.index,
        ),
        default=None,
    )
    if best is not None and best.codec_context.channels > MAX_CHANNELS:
        raise MediaError("too_large", f"{best.codec_context.channels} audio channels; the limit is {MAX_CHANNELS}")
    return best


def _pixels(stream: Any) -> int:
    return int(stream.width or 0) * int(stream.height or 0)
