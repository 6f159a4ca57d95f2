"""Write MP4 files that every player shows and every reader times alike: H.264 and FLAC (or AAC), no B-frames.

Without B-frames the picture needs no edit list, so that frame i is at i / fps for readers that count frames (decord)
and for readers that look at timestamps (all others). A key frame each second makes any second cheap to reach. One
encoder thread and bit-exact muxing make the same input give the same bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

AudioCodec = Literal["flac", "aac"]

FULL_SCALE = 32_768
"""One unit of a float waveform in 16-bit steps; a power of two, so 16-bit sound survives the round trip exactly."""
CLIP_CRF = 12
"""x264's quality for clips: 48 dB or more against the frames it was given, on real clips; 45 dB is the promise."""
CLIP_PRESET = "superfast"


@dataclass(frozen=True, kw_only=True)
class Mp4Settings:
    """How an MP4 file is written."""

    fps: Fraction
    rate_hz: int
    audio_codec: AudioCodec = "flac"
    """flac is lossless and starts at 0; aac is what files in the wild hold, with its priming hidden by an edit list."""
    crf: int = CLIP_CRF
    preset: str = CLIP_PRESET

    @property
    def video_options(self) -> dict[str, str]:
        """Options of libx264. `psnr` tuning keeps what is there and does not sharpen for the eye; without arithmetic
        coding (coder 0) a clip is 5 % bigger, is written in two thirds of the time and read in half of it.
        """
        gop = str(max(1, round(self.fps)))
        return {
            "preset": self.preset,
            "tune": "psnr",
            "crf": str(self.crf),
            "threads": "1",
            "bf": "0",
            "coder": "0",
            "g": gop,
            "keyint_min": gop,
            "sc_threshold": "0",
            "flags": "+bitexact+cgop",
        }


def write_mp4(
    path: Path,
    pictures: Iterable[av.VideoFrame],
    sound: NDArray[np.int16] | None,
    settings: Mp4Settings,
) -> None:
    """Write pictures and mono sound to `path`, front-loaded so that a browser plays while it loads.

    Args:
        path: file to write; overwritten.
        pictures: yuv420p, limited range, all of one even size and one colour matrix (BT.601 or BT.709, which the file
            then names); shown from 0 on, one each 1 / fps.
        sound: (samples,) from time 0 on, or None for a file without sound.
    """
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        first, pictures = _peek(pictures)
        video = _video_stream(container, first, settings)
        audio = None if sound is None else _audio_stream(container, settings)
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base = number, 1 / settings.fps
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            for frame in _sound_frames(sound, audio.format.name, settings.rate_hz):
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def picture_from_rgb(rgb: NDArray[np.uint8]) -> av.VideoFrame:
    """An (H, W, 3) RGB image, 0..255, as a yuv420p BT.709 limited-range picture. H and W must be even."""
    frame: av.VideoFrame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
    )
    return frame


def matrix_of(picture: av.VideoFrame) -> Colorspace:
    """The colour matrix of a clip's picture: BT.601 where it says so, otherwise BT.709."""
    bt601 = (Colorspace.ITU601.value, Colorspace.SMPTE170M.value)
    return Colorspace.SMPTE170M if picture.colorspace in bt601 else Colorspace.ITU709


def to_int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of [-1, 1) as 16-bit steps, rounded; what is louder is clipped."""
    scaled = np.rint(waveform.astype(np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _peek(pictures: Iterable[av.VideoFrame]) -> tuple[av.VideoFrame, Iterator[av.VideoFrame]]:
    iterator = iter(pictures)
    first = next(iterator)

    def everything() -> Iterator[av.VideoFrame]:
        yield first
        yield from iterator

    return first, everything()


def _video_stream(container: Any, first: av.VideoFrame, settings: Mp4Settings) -> Any:
    stream = container.add_stream("libx264", rate=settings.fps, options=settings.video_options)
    stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
    codec = stream.codec_context
    codec.time_base = 1 / settings.fps
    codec.thread_type = "NONE"
    codec.colorspace, codec.color_range = matrix_of(first), ColorRange.MPEG
    return stream


def _audio_stream(container: Any, settings: Mp4Settings) -> Any:
    stream = container.add_stream(settings.audio_codec, rate=settings.rate_hz, options={"flags": "+bitexact"})
    stream.layout = "mono"
    stream.format = "s16" if settings.audio_codec == "flac" else "fltp"
    if settings.audio_codec == "aac":
        stream.bit_rate = 128_000
    return stream


def _sound_frames(sound: NDArray[np.int16], sample_format: str, rate_hz: int) -> Iterator[av.AudioFrame]:
    """Sound as frames of one second; the encoder cuts them to its own size."""
    for start in range(0, len(sound), rate_hz):
        part = sound[None, start : start + rate_hz]
        samples: Any = part if sample_format == "s16" else part.astype(np.float32) / FULL_SCALE
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=sample_format, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        yield frame
