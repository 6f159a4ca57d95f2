"""The result for each of the 86 real clips: kept, with these frames and this audio; or rejected, with this code.

`tests/data/clip_table.csv` holds each decision and its reason. Kept clips are compared with a reader that
shares no code with ours: the ffmpeg program and its timestamps.
"""

import csv
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.ffmpeg_reader import RATE_HZ, assert_same_media, read_with_ffmpeg
from tests.support.paths import ROOT
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.media.sandbox import MediaSandbox, Normalised
from uniform.spec import PAPER

CLIPS = ROOT.parent / "shared" / "clips"
TABLE = list(csv.DictReader((ROOT / "tests" / "data" / "clip_table.csv").open(newline="")))
KEPT = [row for row in TABLE if row["outcome"] == "kept"]
REJECTED = [row for row in TABLE if row["outcome"] == "rejected"]

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
    made = normalised(sandbox, row["file"]).mp4
    reader = read_with_ffmpeg(CLIPS / row["file"], int(row["video_stream"]), int(row["audio_stream"]))

    assert_same_media(made, reader)
    chosen = reader.nearest(PAPER.fps, PAPER.frames)
    times = [f"{reader.times_s[chosen[tick]] - reader.zero_s:.3f}" for tick in (0, 34, 67)]
    assert times == [row["frame_0_s"], row["frame_34_s"], row["frame_67_s"]]


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
