"""Write media files of usual containers and codecs, with B-frames, unlike normalised clips.

For tests and generated datasets only. The suffix selects the format; the same input gives the same bytes.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from uniform.atomic import replacing
from uniform.errors import InputError


@dataclass(frozen=True, kw_only=True)
class _Form:
    container: str
    video_codec: str
    video_options: dict[str, str]
    audio_codec: str
    rates_hz: tuple[int, ...] | None
    """Sample rates of the audio codec; None for any."""


_X264 = {"preset": "superfast", "crf": "12", "threads": "1", "flags": "+bitexact"}
"""Slower presets switch on x264's macroblock tree, which gives different bytes from run to run for 64 x 64 frames."""
_VP8 = {"crf": "6", "b": "4M", "deadline": "realtime", "cpu-used": "6", "threads": "1", "flags": "+bitexact"}
_FORMS = {
    ".mp4": _Form(container="mp4", video_codec="libx264", video_options=_X264, audio_codec="aac", rates_hz=None),
    ".mov": _Form(container="mov", video_codec="libx264", video_options=_X264, audio_codec="aac", rates_hz=None),
    ".mkv": _Form(container="matroska", video_codec="libx264", video_options=_X264, audio_codec="aac", rates_hz=None),
    ".webm": _Form(
        container="webm", video_codec="libvpx", video_options=_VP8, audio_codec="libopus", rates_hz=(48_000,)
    ),
}
_SECONDS_PER_FRAME = 0.02
"""Length of an audio frame for the encoder."""


def write_media_variants(
    path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32], fps: int | Fraction, rate_hz: int
) -> None:
    """Write a lossy file in the format of the suffix of `path`, atomically.

    Args:
        path: ends in .mp4, .mov, .mkv (H.264 with AAC) or .webm (VP8 with Opus).
        frames: (T, H, W, 3) RGB, 0..255; H and W even.
        waveform: (S,) mono, full scale = 1.0.
        fps: frames per second.
        rate_hz: samples per second; WebM's Opus takes 48,000 only.
    Raises: InputError for another suffix or rate.
    """
    form = _FORMS.get(path.suffix)
    if form is None:
        raise InputError(f"{path}: cannot write '{path.suffix}' files; known: {', '.join(_FORMS)}")
    if form.rates_hz is not None and rate_hz not in form.rates_hz:
        raise InputError(f"{path}: {form.audio_codec} takes {form.rates_hz[0]:,} Hz, not {rate_hz:,} Hz")
    with (
        replacing(path) as temporary,
        av.open(
            f"file:{temporary.absolute()}", "w", format=form.container, options={"fflags": "+bitexact"}
        ) as container,
    ):
        video: Any = container.add_stream(form.video_codec, rate=Fraction(fps), options=form.video_options)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        video.codec_context.time_base = 1 / Fraction(fps)
        audio: Any = container.add_stream(form.audio_codec, rate=rate_hz, options={"flags": "+bitexact"})
        audio.layout, audio.bit_rate = "mono", 128_000
        _write(container, video, audio, frames, waveform)


def _write(container: Any, video: Any, audio: Any, frames: NDArray[np.uint8], waveform: NDArray[np.float32]) -> None:
    """Write video and audio interleaved, as players expect."""
    rate_hz, fps = audio.rate, Fraction(1 / video.codec_context.time_base)
    step = round(_SECONDS_PER_FRAME * rate_hz)
    starts = iter(range(0, len(waveform), step))
    begin = next(starts, None)
    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, 1 / fps
        container.mux(video.encode(frame))
        while begin is not None and (begin < (number + 1) / fps * rate_hz or number + 1 == len(frames)):
            part = np.ascontiguousarray(waveform[None, begin : begin + step], dtype=np.float32)
            audio_frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            audio_frame.sample_rate, audio_frame.pts, audio_frame.time_base = rate_hz, begin, Fraction(1, rate_hz)
            container.mux(audio.encode(audio_frame))
            begin = next(starts, None)
    container.mux(video.encode(None))
    container.mux(audio.encode(None))
