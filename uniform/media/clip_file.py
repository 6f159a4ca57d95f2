"""Normalised clip files: written with PyAV, read with decord.

decord is fast, but on arbitrary files it is wrong (it shows hidden pre-roll) or aborts the process. So it reads only
files of `write_clip` or the clip stage. All other files go through `uniform.media.sandbox`.
"""

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from uniform.atomic import replacing
from uniform.errors import InputError, MediaError, SpecMismatchError
from uniform.media.decord_import import decord
from uniform.media.encode import CLIP_CRF, CLIP_PRESET, AudioCodec, Mp4Settings, frame_from_rgb, to_int16, write_mp4
from uniform.media.video import as_rgb
from uniform.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ClipProperties:
    """Properties of a clip file from its header; nothing is decoded."""

    frames: int
    height_px: int
    width_px: int
    fps: Fraction
    samples: int
    """0 without an audio stream."""
    rate_hz: int
    """0 without an audio stream."""


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    waveform: NDArray[np.float32] | None,
    fps: int | Fraction,
    rate_hz: int,
    *,
    audio_codec: AudioCodec = "flac",
    crf: int = CLIP_CRF,
    preset: str = CLIP_PRESET,
) -> None:
    """Write an MP4 file atomically; the same input gives the same bytes.

    Args:
        path: the file; its folder is made where it is missing.
        frames: (T, H, W, 3) RGB, 0..255, T >= 1; H and W even.
        waveform: (S,) mono, full scale = 1.0, louder samples are clipped; None for a file without audio.
        fps: frames per second.
        rate_hz: samples per second.
        audio_codec: "flac" is lossless (16 bits); "aac" is the usual codec of published files.
        crf: x264's quality, 0 (lossless) to 51; lower is better and larger.
        preset: x264's effort.
    Raises: InputError where shapes or types do not fit.
    """
    _check_content(path, frames, waveform)
    settings = Mp4Settings(fps=Fraction(fps), rate_hz=rate_hz, audio_codec=audio_codec, crf=crf, preset=preset)
    samples = None if waveform is None else to_int16(waveform)
    with replacing(path) as temporary:
        write_mp4(temporary, (frame_from_rgb(frame) for frame in frames), samples, settings)


def read_clip(
    source: bytes | Path, spec: Spec, *, longer: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Read a normalised clip that the clip stage or `write_clip` made with the geometry of `spec`.

    Args:
        source: the file's bytes (as in a shard) or its path.
        spec: geometry that the clip must have.
        longer: also read a clip that is whole seconds longer than the spec's.
    Returns: frames (spec.frames, spec.height_px, spec.width_px, 3) RGB uint8, and the waveform (spec.samples,) float32,
        full scale = 1.0.
    Raises: MediaError where the file is damaged; SpecMismatchError where it was made for another spec.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    name = "the clip" if isinstance(source, bytes) else str(source)
    properties = probe(content)
    if longer:
        spec = replace(spec, duration_s=max(spec.duration_s, properties.frames // spec.fps))
    _check_geometry(name, properties, spec)
    try:
        frames = _frames(content)
        waveform = decord.AudioReader(io.BytesIO(content), sample_rate=spec.rate_hz, mono=True)[:].asnumpy()[0]
    except (decord.DECORDError, av.FFmpegError, RuntimeError, IndexError) as error:
        raise MediaError("decode_corrupt", f"{name}: decord cannot read it ({str(error).splitlines()[0]})") from error
    if frames.shape[0] != spec.frames or waveform.shape[0] < spec.samples:
        raise MediaError(
            "truncated",
            f"{name}: {frames.shape[0]} frames and {waveform.shape[0]:,} samples were decoded; "
            f"its header promises {spec.frames} and {spec.samples:,}",
        )
    return frames, np.ascontiguousarray(waveform[: spec.samples], dtype=np.float32)


def _frames(content: bytes) -> NDArray[np.uint8]:
    """(T, H, W, 3) RGB. decord 3.4 refuses widths whose rows FFmpeg pads (32, 48, 96, 144): PyAV reads those."""
    try:
        video = decord.VideoReader(io.BytesIO(content), num_threads=1)
        frames: NDArray[np.uint8] = video.get_batch(range(len(video))).asnumpy()
    except decord.DECORDError:
        with av.open(io.BytesIO(content), "r", format="mp4") as container:
            frames = np.stack([as_rgb(frame) for frame in container.decode(video=0)])
    return frames


def probe(source: bytes | Path) -> ClipProperties:
    """Read the properties of a clip file from its header. Raises MediaError where it cannot be read."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    name = "the clip" if isinstance(source, bytes) else str(source)
    try:
        with av.open(opened, format="mp4") as container:
            if not container.streams.video:
                raise MediaError("no_video", f"{name}: no video stream")
            video = container.streams.video[0]
            audio = container.streams.audio[0] if container.streams.audio else None
            return ClipProperties(
                frames=video.frames,
                height_px=video.codec_context.height,
                width_px=video.codec_context.width,
                fps=Fraction(video.average_rate or 0),
                samples=_samples(audio) if audio else 0,
                rate_hz=audio.rate if audio else 0,
            )
    except (av.FFmpegError, OSError) as error:
        raise MediaError("decode_corrupt", f"{name}: not a readable MP4 file ({error})") from error


def _samples(audio: av.AudioStream) -> int:
    if audio.duration is None or audio.time_base is None:
        return 0
    return round(audio.duration * audio.time_base * audio.rate)


def _check_content(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32] | None) -> None:
    if frames.ndim != 4 or frames.shape[0] < 1 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InputError(f"{path}: frames are {frames.dtype} {frames.shape}; wanted uint8 (T, H, W, 3), T >= 1")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise InputError(f"{path}: frames are {frames.shape[1]} x {frames.shape[2]} px; H.264 4:2:0 wants even sides")
    if waveform is None:
        return
    if waveform.ndim != 1 or waveform.shape[0] < 1 or not np.isfinite(waveform).all():
        raise InputError(f"{path}: the waveform is {waveform.shape}; wanted finite mono samples (S,), S >= 1")


def _check_geometry(name: str, properties: ClipProperties, spec: Spec) -> None:
    found = (
        properties.frames,
        properties.height_px,
        properties.width_px,
        properties.fps,
        properties.samples,
        properties.rate_hz,
    )
    wanted = (spec.frames, spec.height_px, spec.width_px, Fraction(spec.fps), spec.samples, spec.rate_hz)
    if found == wanted:
        return
    raise SpecMismatchError(
        f"{name}: {_geometry(*found)}; spec '{spec.name}' wants {_geometry(*wanted)}. "
        f"Make the clip again for '{spec.name}': uniform pipeline run with a recipe of that spec"
    )


def _geometry(frames: int, height: int, width: int, fps: Fraction, samples: int, rate_hz: int) -> str:
    return f"{frames} frames of {height} x {width} px at {fps} fps, {samples:,} samples at {rate_hz:,} Hz"
