"""The promises of test_clip_table and of the real clips in test_check, on generated files: they run in every clone."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.clip import Clip
from pipelines.stage import Context
from pipelines.stages import check, clip_media
from tests.support.fake_stages import rows
from tests.support.ffmpeg_reader import assert_same_media, read_with_ffmpeg
from tests.support.media_files import ffmpeg, write_numbered
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.media.sandbox import MediaSandbox
from uniform.spec import PAPER

KEPT = {
    "h264_aac.mp4": ("-c:v", "libx264", "-bf", "3", "-crf", "12", "-c:a", "aac"),
    "vp8_vorbis.webm": ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis"),
    "mpeg4_25_fps.mkv": ("-r", "25", "-c:v", "mpeg4", "-q:v", "3", "-c:a", "flac"),
    "mjpeg_44_khz.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le", "-ar", "44100"),
}
REJECTED = {
    "page.mp4": "not_media",
    "no_audio.mp4": "no_audio",
    "no_video.mkv": "no_video",
    "short.mp4": "too_short",
}
CHECKED = {
    "base.mp4": None,
    "still.mp4": "still",
    "black.mp4": "black",
    "silent.mp4": "silent",
    "late_audio.mkv": "av_length",
    "short_audio.mkv": "av_length",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    base = write_numbered(folder / "base.mp4", seconds=5)
    fast = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "flac", "-strict", "-2")
    for name, options in KEPT.items():
        ffmpeg("-i", base, *options, folder / name)
    (folder / "page.mp4").write_text("<html>404</html>")
    ffmpeg("-i", base, "-an", "-c", "copy", folder / "no_audio.mp4")
    ffmpeg("-i", base, "-vn", "-c", "copy", folder / "no_video.mkv")
    ffmpeg("-i", base, "-t", "2", *fast, folder / "short.mp4")
    ffmpeg("-i", base, "-vf", "trim=end_frame=1,loop=loop=-1:size=1,fps=30", "-t", "5", *fast, folder / "still.mp4")
    ffmpeg("-i", base, "-vf", "drawbox=color=black:t=fill", *fast, folder / "black.mp4")
    ffmpeg("-i", base, "-af", "volume=0", *fast, folder / "silent.mp4")
    ffmpeg(
        "-i", base, "-itsoffset", "1.5", "-i", base, "-map", "0:v", "-map", "1:a", "-c", "copy",
        folder / "late_audio.mkv",
    )  # fmt: skip
    ffmpeg("-i", base, "-af", "atrim=end=2", *fast, folder / "short_audio.mkv")
    return folder


@pytest.fixture(scope="module")
def sandbox():
    with MediaSandbox() as opened:
        yield opened


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_clip_has_the_frames_and_samples_that_ffmpeg_reads(
    name: str, folder: Path, sandbox: MediaSandbox
) -> None:
    made = sandbox.normalise(folder / name, PAPER)

    assert made.notes == ()
    assert_same_media(made.mp4, read_with_ffmpeg(folder / name, 0, 1))


def test_the_comparison_finds_a_shift_of_a_quarter_second(folder: Path, sandbox: MediaSandbox) -> None:
    shifted = sandbox.normalise(folder / "base.mp4", PAPER, 250).mp4

    with pytest.raises(AssertionError, match="grey levels"):
        assert_same_media(shifted, read_with_ffmpeg(folder / "base.mp4", 0, 1))
    assert read_clip(shifted, PAPER)[0].shape == (PAPER.frames, 256, 256, 3)


@pytest.mark.parametrize(("name", "code"), REJECTED.items())
def test_a_file_without_a_clip_is_rejected_with_its_code(
    name: str, code: str, folder: Path, sandbox: MediaSandbox
) -> None:
    with pytest.raises(MediaError) as caught:
        sandbox.normalise(folder / name, PAPER)

    assert caught.value.code == code


@pytest.mark.parametrize(("name", "code"), CHECKED.items())
def test_generated_clips_pass_the_check_or_get_its_code(name: str, code: str | None, folder: Path) -> None:
    normalise = clip_media.Stage().open(Context(spec=PAPER))
    row = dataclasses.replace(rows(1)[0], start_ms=0, duration_ms=PAPER.duration_ms)
    source = Clip(row, {"source": str(folder / name)})

    (clip,) = check.Stage().open(Context(spec=PAPER))(normalise(iter([source])))

    assert (clip.dropped.code if clip.dropped else None) == code, clip.dropped
