"""What becomes of each of the 86 real clips: kept, with which frames and which sound; or rejected, with which code.

`tests/data/clip_table.csv` is the decision, file by file, with its reason. Kept clips are checked against a reader that
shares no code with ours: the ffmpeg program, whose frames and samples are placed by the timestamps it logs.
"""

import csv
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.paths import ROOT
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.media.sandbox import MediaSandbox, Normalised
from uniform.spec import PAPER

CLIPS = ROOT.parent / "shared" / "clips"
TABLE = list(csv.DictReader((ROOT / "tests" / "data" / "clip_table.csv").open(newline="")))
KEPT = [row for row in TABLE if row["outcome"] == "kept"]
REJECTED = [row for row in TABLE if row["outcome"] == "rejected"]
SIDE = 64
RATE_HZ = 16_000

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the real clips are not there: {CLIPS}")


@pytest.fixture(scope="module")
def sandbox():
    with MediaSandbox() as opened:
        yield opened


@cache
def normalised(sandbox: MediaSandbox, name: str) -> Normalised:
    return sandbox.normalise(CLIPS / name, PAPER)


def names(rows: list[dict[str, str]]) -> list[str]:
    return [row["file"] for row in rows]


def test_the_table_decides_every_file_of_the_folder() -> None:
    assert sorted(names(TABLE)) == sorted(path.name for path in CLIPS.iterdir() if path.name != "index.csv")
    assert all(row["why"] for row in TABLE)


@pytest.mark.parametrize("row", REJECTED, ids=names(REJECTED))
def test_a_file_nobody_wants_is_rejected_with_its_code(row: dict[str, str], sandbox: MediaSandbox) -> None:
    with pytest.raises(MediaError) as caught:
        sandbox.normalise(CLIPS / row["file"], PAPER)

    assert caught.value.code == row["code"]


@pytest.mark.parametrize("row", KEPT, ids=names(KEPT))
def test_a_kept_clip_has_the_notes_of_the_table(row: dict[str, str], sandbox: MediaSandbox) -> None:
    assert "; ".join(map(str, normalised(sandbox, row["file"]).notes)) == row["notes"]


@pytest.mark.parametrize("row", KEPT, ids=names(KEPT))
def test_a_kept_clip_shows_and_sounds_what_ffmpeg_does_at_the_same_time(
    row: dict[str, str], sandbox: MediaSandbox
) -> None:
    frames, waveform = read_clip(normalised(sandbox, row["file"]).mp4, PAPER)
    reader = read_with_ffmpeg(CLIPS / row["file"], int(row["video_stream"]), int(row["audio_stream"]))
    chosen = reader.nearest(PAPER.fps, PAPER.frames)

    times = [f"{reader.times_s[chosen[tick]] - reader.zero_s:.3f}" for tick in (0, 34, 67)]
    assert times == [row["frame_0_s"], row["frame_34_s"], row["frame_67_s"]]

    luma = shrink(frames @ np.array([0.299, 0.587, 0.114]))
    difference = np.abs(luma - reader.pictures[chosen]).mean(axis=(1, 2))
    assert difference.max() < 6.0, f"frame {difference.argmax()} differs by {difference.max():.1f} grey levels"

    expected = reader.sound(PAPER.samples)
    assert np.flatnonzero(waveform).size == 0 or lag_samples(waveform, expected) <= RATE_HZ // 500  # 2 ms
    level = np.sqrt(np.mean(expected**2))
    smooth = np.convolve(waveform - expected, np.ones(8) / 8)  # starts are placed to the nearest sample, not finer
    assert np.sqrt(np.mean(smooth**2)) <= 0.1 * level + 1e-4


@pytest.mark.parametrize("name", ["d40_sync_section_copy.mp4", "d41_sync_section_reencode.mp4"])
def test_flash_and_beep_of_a_section_lie_where_they_lie_in_the_recording(name: str, sandbox: MediaSandbox) -> None:
    frames, waveform = read_clip(normalised(sandbox, name).mp4, PAPER)

    assert first_flash_s(frames) == pytest.approx(0.733, abs=1 / 17)
    assert first_beep_s(waveform) == pytest.approx(0.750, abs=0.01)


@pytest.mark.parametrize("name", ["r09_sync_test.mp4", "r10_sync_test.mkv"])
@pytest.mark.parametrize("start_ms", [10_300, 20_000, 41_720, 55_500])
def test_flash_and_beep_stay_together_wherever_the_clip_starts(name: str, start_ms: int, sandbox: MediaSandbox) -> None:
    frames, waveform = read_clip(sandbox.normalise(CLIPS / name, PAPER, start_ms).mp4, PAPER)

    assert phase_error_s(first_flash_s(frames), 0.033 - start_ms / 1000) <= 1 / 17
    assert phase_error_s(first_beep_s(waveform), 0.054 - start_ms / 1000) <= 0.025


def phase_error_s(found_s: float, wanted_s: float) -> float:
    """Distance of two instants on a clock of one second."""
    return abs((found_s - wanted_s + 0.5) % 1 - 0.5)


def first_flash_s(frames: NDArray[np.uint8]) -> float:
    """When the red disc first comes on."""
    red = frames[..., 0].astype(int) - frames[..., 1]
    level = (red > 100).mean(axis=(1, 2))
    on = level > level.max() / 2
    return float(np.flatnonzero(on & ~np.concatenate([[True], on[:-1]]))[0]) / PAPER.fps


def first_beep_s(waveform: NDArray[np.float32]) -> float:
    """When the sound first rises out of silence."""
    loud = np.abs(waveform) > 0.2 * np.abs(waveform).max()
    quiet_before = np.convolve(loud, np.ones(3_200))[: len(loud)] == loud  # nothing loud in the 200 ms before
    return float(np.flatnonzero(loud & quiet_before & (np.arange(len(loud)) > 800))[0]) / RATE_HZ


@dataclass
class Reading:
    """A file as the ffmpeg program shows it."""

    times_s: list[float]
    pictures: NDArray[np.float64]  # (frames, SIDE, SIDE) grey
    sound_start_s: float
    samples: NDArray[np.float64]

    @property
    def zero_s(self) -> float:
        """The clip's time 0: the first picture."""
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
        """Samples on the picture's clock, silence where there are none."""
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
