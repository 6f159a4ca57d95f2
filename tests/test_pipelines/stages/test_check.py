"""Still, black, silent and clipped clips are rejected; all others are kept."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.clip import Clip, Row
from pipelines.codes import CODES
from pipelines.run.ledger import status_of
from pipelines.stage import Context
from pipelines.stages import clip_media
from pipelines.stages.check import Stage
from tests.support.paths import ROOT
from uniform.errors import ConfigError
from uniform.media.clip_file import write_clip
from uniform.media.notes import read_note
from uniform.spec import PAPER, TOY

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="own",
    split="train",
    source_kind="local",
    source_id="a",
    source_uri="a.mp4",
    start_ms=0,
    duration_ms=4000,
)
TONE = (0.1 * np.sin(2 * np.pi * 440 * np.arange(TOY.samples) / TOY.rate_hz)).astype(np.float32)
RANDOM = np.random.default_rng(0)


def moving() -> NDArray[np.uint8]:
    """A small dim square that crosses dark video: the least motion that must pass."""
    frames = np.full((TOY.frames, 64, 64, 3), 24, dtype=np.uint8)
    for number in range(TOY.frames):
        frames[number, 28:36, number : number + 8] = 60
    return frames


def noisy_still() -> NDArray[np.uint8]:
    """Still video with camera noise (std 2 levels)."""
    picture = RANDOM.integers(40, 200, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    noise = RANDOM.normal(0, 2, (TOY.frames, 64, 64, 3))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def checked(
    folder: Path,
    frames: NDArray[np.uint8],
    sound: NDArray[np.float32],
    stage: Stage | None = None,
    notes: tuple[str, ...] = (),
) -> str | None:
    write_clip(folder / "clip.mp4", frames, sound, TOY.fps, TOY.rate_hz)
    work = (stage or Stage()).open(Context(spec=TOY))
    (clip,) = work(iter([Clip(ROW, {"mp4": (folder / "clip.mp4").read_bytes()}, notes=tuple(map(read_note, notes)))]))
    if clip.dropped is None:
        return None
    assert status_of(clip.dropped.code) == "rejected"
    assert clip.dropped.code in CODES
    assert any(character.isdigit() for character in clip.dropped.reason)
    return clip.dropped.code


def test_a_small_dim_moving_object_is_enough_motion(tmp_path: Path) -> None:
    assert checked(tmp_path, moving(), TONE) is None


def test_still_video_is_found_despite_camera_noise(tmp_path: Path) -> None:
    assert checked(tmp_path, noisy_still(), TONE) == "still"


def test_black_video_gets_the_code_black_not_still(tmp_path: Path) -> None:
    assert checked(tmp_path, np.full((TOY.frames, 64, 64, 3), 8, dtype=np.uint8), TONE) == "black"


@pytest.mark.parametrize(("level_dbfs", "code"), [(-48.0, None), (-57.0, None), (-63.0, "silent"), (-200.0, "silent")])
def test_the_silence_floor_lies_below_a_quiet_phone_clip(tmp_path: Path, level_dbfs: float, code: str | None) -> None:
    sound = (TONE * np.sqrt(2) * 10 * 10 ** (level_dbfs / 20)).astype(np.float32)

    assert checked(tmp_path, moving(), sound) == code


def test_clipped_audio_is_rejected_and_loud_audio_is_kept(tmp_path: Path) -> None:
    assert checked(tmp_path, moving(), np.clip(TONE * 100, -1, 1)) == "clipped"
    assert checked(tmp_path, moving(), np.clip(TONE * 9.9, -1, 1)) is None


def test_a_check_that_is_off_rejects_nothing(tmp_path: Path) -> None:
    off = Stage(still_floor=None, black_ceiling=None, silence_floor_dbfs=None, clipped_share=None)
    black = np.zeros((TOY.frames, 64, 64, 3), dtype=np.uint8)

    assert checked(tmp_path, black, np.zeros(TOY.samples, dtype=np.float32), off) is None


@pytest.mark.parametrize(
    ("notes", "code"),
    [
        (("audio starts 1,476 ms late",), "av_length"),
        (("audio ends 1,980 ms early",), "av_length"),
        (("audio starts 300 ms late", "audio pauses for 201 ms at 900 ms"), "av_length"),
        (("audio starts 300 ms late", "audio pauses for 200 ms at 900 ms"), None),
        (("picture starts 900 ms late; the first frame is held",), None),
    ],
)
def test_audio_that_does_not_cover_the_video_is_rejected(
    tmp_path: Path, notes: tuple[str, ...], code: str | None
) -> None:
    assert checked(tmp_path, moving(), TONE, notes=notes) == code
    assert checked(tmp_path, moving(), TONE, Stage(missing_sound_ms=None), notes) is None


def test_damaged_bytes_get_a_drop_code() -> None:
    (clip,) = Stage().open(Context(spec=TOY))(iter([Clip(ROW, {"mp4": b"\0" * 1000})]))

    assert clip.dropped is not None
    assert clip.dropped.code == "decode_corrupt"


@pytest.mark.parametrize(
    "option", [{"still_floor": -1.0}, {"clipped_share": 2.0}, {"silence_floor_dbfs": 3.0}, {"missing_sound_ms": -1}]
)
def test_a_threshold_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        Stage(**option)  # type: ignore[arg-type]


CLIPS = ROOT.parent / "shared" / "clips"


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips is not beside the repository")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("d35_static_image.mp4", "still"),
        ("d34_digital_silence.mp4", "silent"),
        ("b39_mkv_bad_container.mkv", "silent"),
        ("d13_audio_late_1.5s.mp4", "av_length"),
        ("d14_audio_short_2s.mp4", "av_length"),
        ("b37_vc1_wmapro.mov", None),
        ("r01_frog_cc0.mp4", None),
        ("n13_donkey.mp4", None),
    ],
)
def test_real_clips_are_checked_as_a_person_would(name: str, code: str | None) -> None:
    normalise = clip_media.Stage().open(Context(spec=PAPER))
    (clip,) = Stage().open(Context(spec=PAPER))(normalise(iter([Clip(ROW, {"source": str(CLIPS / name)})])))

    assert (clip.dropped.code if clip.dropped else None) == code, clip.dropped
