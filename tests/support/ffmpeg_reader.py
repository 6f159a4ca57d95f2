"""Read media with the ffmpeg program, which shares no code with our reader, and compare clips with what it reads."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from uniform.media.clip_file import read_clip
from uniform.spec import PAPER

SIDE = 64
RATE_HZ = 16_000


def assert_same_media(mp4: bytes, reader: "Reading") -> None:
    """Assert that a clip of the paper's spec has the frames and samples that ffmpeg reads at the same times."""
    frames, waveform = read_clip(mp4, PAPER)
    luma = shrink(frames @ np.array([0.299, 0.587, 0.114]))
    difference = np.abs(luma - reader.pictures[reader.nearest(PAPER.fps, PAPER.frames)]).mean(axis=(1, 2))
    assert difference.max() < 6.0, f"frame {difference.argmax()} differs by {difference.max():.1f} grey levels"

    expected = reader.sound(PAPER.samples)
    assert np.flatnonzero(waveform).size == 0 or lag_samples(waveform, expected) <= RATE_HZ // 500  # 2 ms
    level = np.sqrt(np.mean(expected**2))
    smooth = np.convolve(waveform - expected, np.ones(8) / 8)  # starts are placed to the nearest sample, not finer
    assert np.sqrt(np.mean(smooth**2)) <= 0.1 * level + 1e-4


@dataclass
class Reading:
    """A file as the ffmpeg program reads it."""

    times_s: list[float]
    pictures: NDArray[np.float64]  # (frames, SIDE, SIDE) grey
    sound_start_s: float
    samples: NDArray[np.float64]

    @property
    def zero_s(self) -> float:
        """The clip's time 0: the first frame."""
        return self.times_s[0]

    def nearest(self, fps: int, count: int) -> list[int]:
        """For each clip frame the nearest source frame that is at most half a clip frame early."""
        times = np.array(self.times_s) - self.zero_s
        chosen = []
        for tick in np.arange(count) / fps:
            distance = np.where(times <= tick + 0.5 / fps + 1e-6, np.abs(times - tick), np.inf)
            chosen.append(int(np.flatnonzero(distance == distance.min())[-1]))
        return chosen

    def sound(self, count: int) -> NDArray[np.float64]:
        """Samples on the clock of the video, silence where there are none."""
        first = round((self.sound_start_s - self.zero_s) * RATE_HZ)
        placed = np.zeros(count)
        begin, end = max(0, first), min(count, first + len(self.samples))
        placed[begin:end] = self.samples[begin - first : end - first]
        return placed


def read_with_ffmpeg(path: Path, video: int, audio: int) -> Reading:
    """The first seconds of two streams, with the times at which ffmpeg presents them."""
    square = "scale='trunc(iw*max(sar,1e-3))':ih,setsar=1,crop='min(iw,ih)':'min(iw,ih)'"
    picture = f"showinfo,{square},scale={SIDE}:{SIDE}:flags=area,format=gray"
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-copyts", "-y"]
    program += ["-threads", "1", "-t", "4.6", "-i", f"file:{path}"]
    pictures = subprocess.run(
        [*program, "-map", f"0:{video}", "-vf", picture, "-fps_mode", "passthrough", "-f", "rawvideo", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    sound = subprocess.run(
        [*program, "-map", f"0:{audio}", "-af",
         f"ashowinfo,aresample={RATE_HZ}:async=1:min_hard_comp=0.03,aformat=s16:channel_layouts=mono",
         "-f", "s16le", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    grey = np.frombuffer(pictures.stdout, np.uint8).reshape(-1, SIDE, SIDE).astype(np.float64)
    times = [float(time) for time in re.findall(rb"n: *\d+ pts: *-?\d+ pts_time:(\S+)", pictures.stderr)]
    starts = re.findall(rb"n:\d+ pts:-?\d+ pts_time:(\S+)", sound.stderr)
    samples = np.frombuffer(sound.stdout, np.int16) / 32768
    return Reading(times[: len(grey)], grey, float(starts[0]), samples)


def shrink(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, H, W) to (T, SIDE, SIDE) by averaging."""
    count, height, width = images.shape
    return images.reshape(count, SIDE, height // SIDE, SIDE, width // SIDE).mean(axis=(2, 4))


def lag_samples(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> int:
    """By how many samples the best match of the two is shifted."""
    size = 2 * len(wanted)
    correlation = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(wanted, size)))
    shift = int(np.argmax(correlation))
    return min(shift, size - shift)
