"""Media files with known frames and audio, and variants of them made by ffmpeg."""

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from uniform.media.clip_file import write_clip

HEIGHT, WIDTH, FPS, SECONDS, RATE_HZ = 96, 128, 30, 6, 48_000
BITS = 8
BEEP_S = 1.0
"""When the audio track beeps, for 50 ms."""
NUMBER_ROWS = slice(42, 60)
"""Rows of a 64 x 64 clip that show the number, well inside the band."""


def numbered_picture(number: int) -> NDArray[np.uint8]:
    """(96, 128, 3): the centre square shows `number` as eight bars below, and one white quarter at its upper left."""
    picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    picture[: HEIGHT // 2, 16:64] = 230
    for bit in range(BITS):
        picture[HEIGHT // 2 :, 16 + 12 * bit : 28 + 12 * bit] = 220 if number >> bit & 1 else 30
    return picture


def beeping_sound(rate_hz: int = RATE_HZ, seconds: float = SECONDS) -> NDArray[np.float32]:
    """A quiet hum with a beep of 1 kHz at `BEEP_S`."""
    time = np.arange(round(rate_hz * seconds)) / rate_hz
    beep = (time >= BEEP_S) & (time < BEEP_S + 0.05)
    return (0.01 * np.sin(2 * np.pi * 200 * time) + 0.5 * beep * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)


def write_numbered(path: Path, seconds: float = SECONDS) -> Path:
    """A good H.264 and FLAC file of numbered pictures at 30 fps, the source of all the others."""
    frames = np.stack([numbered_picture(number) for number in range(round(FPS * seconds))])
    write_clip(path, frames, beeping_sound(seconds=seconds), Fraction(FPS), RATE_HZ, crf=8)
    return path


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """The numbers that the frames of a 64 x 64 clip show."""
    centres = (np.arange(BITS) * 8) + 4
    levels = frames[:, NUMBER_ROWS][:, :, centres].mean(axis=(1, 3))  # (T, bits)
    return [int(sum(1 << bit for bit in range(BITS) if row[bit] > 125)) for row in levels]


def white_corner(frame: NDArray[np.uint8]) -> str:
    """Which quarter of a clip's frame is the white one."""
    rows, columns = frame.shape[0] // 2, frame.shape[1] // 2
    quarters = {
        "upper left": frame[:rows, :columns],
        "upper right": frame[:rows, columns:],
        "lower left": frame[rows:, :columns],
        "lower right": frame[rows:, columns:],
    }
    return max(quarters, key=lambda name: float(quarters[name].mean()))


def nearest_numbers(start_s: float, count: int, fps: int = 17, source_fps: float = FPS) -> list[int]:
    """Numbers of the frames nearest to the clip's instants, for a source of even frame rate."""
    return [int(np.floor((start_s + tick / fps) * source_fps + 0.5)) for tick in range(count)]


def beep_start_s(waveform: NDArray[np.float32], rate_hz: int = 16_000) -> float:
    """When the beep begins."""
    level = np.abs(waveform)
    return float(np.flatnonzero(level > 0.4 * level.max())[0]) / rate_hz


def ffmpeg(*arguments: object) -> None:
    """Run the bundled ffmpeg program."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y"]
    done = subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
