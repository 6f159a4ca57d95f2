"""Files of every kind are decoded to the right frames at the right times, upright, with audio in place."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import (
    BEEP_S,
    FPS,
    beep_start_s,
    ffmpeg,
    nearest_numbers,
    numbers,
    white_corner,
    write_numbered,
)
from uniform.errors import MediaError
from uniform.media.sandbox import Loaded, MediaSandbox
from uniform.spec import TOY

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12")
CONTAINERS = {
    "a.mp4": (*H264, "-c:a", "aac"),
    "bframes.mp4": ("-c:v", "libx264", "-preset", "medium", "-crf", "12", "-bf", "8", "-g", "500", "-c:a", "aac"),
    "a.mov": (*H264, "-c:a", "pcm_s16le"),
    "a.mkv": (*H264, "-c:a", "libvorbis"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "3M", "-c:a", "libopus"),
    "vp8.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "4M", "-c:a", "libvorbis"),
    "a.ts": (*H264, "-c:a", "aac"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "2", "-c:a", "pcm_s16le"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le"),
    "a.flv": (*H264, "-c:a", "aac"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"),
    "hevc10.mkv": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0", "-pix_fmt",
                   "yuv420p10le", "-c:a", "flac"),
    "fragmented.mp4": (*H264, "-c:a", "aac", "-movflags", "frag_keyframe+delay_moov"),
    "4_4_4.mp4": (*H264, "-pix_fmt", "yuv444p", "-c:a", "aac"),
    "full_range.mkv": ("-c:v", "ffv1", "-pix_fmt", "bgr0", "-c:a", "flac"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("base") / "base.mp4")


@pytest.fixture(scope="module")
def sandbox():
    with MediaSandbox(time_limit_s=120) as opened:
        yield opened


def load(sandbox: MediaSandbox, path: Path, start_ms: int = 0) -> tuple[np.ndarray, np.ndarray, Loaded]:
    loaded = sandbox.load(path, TOY, start_ms)
    assert loaded.frames is not None
    assert loaded.waveform is not None
    assert loaded.frames.shape == (34, 64, 64, 3)
    assert loaded.waveform.shape == (32_000,)
    return loaded.frames, loaded.waveform, loaded


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_frames_and_the_beep_at_its_time(
    name: str, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg("-i", base, *CONTAINERS[name], tmp_path / name)
    for start_ms in (0, 700, 3_300):
        frames, waveform, _ = load(sandbox, tmp_path / name, start_ms)
        found, wanted = numbers(frames), nearest_numbers(start_ms / 1000, 34)
        off = [abs(one - other) for one, other in zip(found, wanted, strict=True)]
        assert max(off) <= (1 if name.endswith((".webm", ".mkv", ".flv", ".ts", ".mpg")) else 0), (start_ms, found)
        if start_ms < 1_000:
            assert beep_start_s(waveform) == pytest.approx(BEEP_S - start_ms / 1000, abs=0.012)


@pytest.mark.parametrize(
    ("turn", "corner"),
    [(("-display_rotation", "90"), "lower left"), (("-display_rotation", "180"), "lower right"),
     (("-display_rotation", "270"), "upper right"), (("-display_hflip",), "upper right"),
     (("-display_vflip",), "lower left")],
)  # fmt: skip
def test_rotation_and_mirror_metadata_turn_the_frames_upright(
    turn: tuple[str, ...], corner: str, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg(*turn, "-i", base, "-c", "copy", tmp_path / "turned.mp4")

    frames, _, _ = load(sandbox, tmp_path / "turned.mp4")

    assert white_corner(frames[0]) == corner


def test_pixels_that_are_not_square_are_scaled_to_their_true_width(
    base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg("-i", base, "-vf", "scale=64:96,setsar=2", *H264, "-c:a", "copy", tmp_path / "narrow.mp4")

    frames, _, _ = load(sandbox, tmp_path / "narrow.mp4")

    assert numbers(frames) == nearest_numbers(0, 34)


def test_squash_keeps_the_whole_frame(base: Path, sandbox: MediaSandbox) -> None:
    cropped = sandbox.load(base, TOY).frames
    squashed = sandbox.load(base, TOY, fit="squash").frames

    assert cropped is not None
    assert squashed is not None
    assert cropped[0, 5, 2].mean() > 200  # the white quarter reaches the left edge of the centre square
    assert squashed[0, 5, 2].mean() < 60  # the dark margin is in the picture
    assert squashed[0, 5, 12].mean() > 200


def test_hidden_pre_roll_of_a_stream_copied_section_is_not_shown(
    base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg("-i", base, "-c:v", "libx264", "-g", "90", "-crf", "12", "-c:a", "aac", tmp_path / "long_gop.mp4")
    ffmpeg("-ss", "0.7", "-i", tmp_path / "long_gop.mp4", "-c", "copy", tmp_path / "section.mp4")

    frames, waveform, _ = load(sandbox, tmp_path / "section.mp4")

    assert numbers(frames) == nearest_numbers(0.7, 34)
    assert beep_start_s(waveform) == pytest.approx(BEEP_S - 0.7, abs=0.012)


def test_variable_frame_rate_follows_timestamps(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    kept = "select='lt(mod(n\\,12)\\,5)+eq(n\\,40)'"  # five frames, then a gap of 267 ms
    ffmpeg("-i", base, "-vf", kept, "-fps_mode", "vfr", *H264, "-c:a", "copy", tmp_path / "vfr.mp4")
    times = [number / FPS for number in range(FPS * 6) if number % 12 < 5 or number == 40]

    frames, _, _ = load(sandbox, tmp_path / "vfr.mp4")

    assert len(frames) == TOY.frames

    for tick, number in enumerate(numbers(frames)):
        early_enough = [time for time in times if time <= tick / 17 + 1 / 34]
        assert number / FPS == pytest.approx(min(early_enough, key=lambda time: abs(time - tick / 17)))


def test_slow_sources_repeat_frames(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg(
        "-i", base, "-vf", "select='not(mod(n\\,6))'", "-fps_mode", "vfr", *H264, "-c:a", "copy", tmp_path / "5fps.mp4"
    )

    frames, _, _ = load(sandbox, tmp_path / "5fps.mp4")

    assert set(numbers(frames)) == set(range(0, 60, 6))


def test_interlaced_frames_are_deinterlaced_without_combs(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    moving = "color=gray:s=128x96:r=60:d=4[g];color=white:s=24x96:r=60:d=4[w];[g][w]overlay=x='mod(t*120,128)'[v]"
    ffmpeg("-f", "lavfi", "-i", "sine=d=4", "-filter_complex", f"{moving};[v]interlace=scan=tff:lowpass=off[i]",
           "-map", "[i]", "-map", "0:a", "-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme", "-c:a", "mp2",
           tmp_path / "interlaced.ts")  # fmt: skip
    tall = TOY.__class__(**{**TOY.as_dict(), "height_px": 96, "width_px": 96})

    frames = sandbox.load(tmp_path / "interlaced.ts", tall).frames

    assert frames is not None
    rows = frames[..., 1].astype(int)
    comb = np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:]).mean()
    assert comb < 1.0  # 8 without deinterlacing


@pytest.mark.parametrize(("transfer", "white_code"), [("smpte2084", 0.581), ("arib-std-b67", 0.75)])
def test_hdr_frames_are_tone_mapped_to_a_bright_white_and_a_true_black(
    transfer: str, white_code: float, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    level = round(64 + 876 * white_code)  # the code value of diffuse white: 203 nits, in ten bits
    bars = f"geq=lum='if(lt(X,64),64,{level})':cb=512:cr=512"
    ffmpeg("-f", "lavfi", "-i", "color=black:s=128x96:r=30:d=3,format=yuv420p10le", "-f", "lavfi", "-i", "sine=d=3",
           "-vf", f"{bars},setparams=color_primaries=bt2020:color_trc={transfer}:colorspace=bt2020nc:range=tv",
           "-c:v", "libx264", "-preset", "ultrafast", "-crf", "4", "-c:a", "aac", tmp_path / "hdr.mp4")  # fmt: skip

    frames, _, _ = load(sandbox, tmp_path / "hdr.mp4")

    assert frames[10, :, 4:24].max() <= 3
    assert frames[10, :, 44:60].min() >= 200
    assert frames[10, :, 44:60].max() <= 245
    assert np.ptp(frames[10, 30, 50].astype(int)) <= 3  # grey stays grey


def test_frames_that_change_size_in_mid_stream_are_all_scaled(
    base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg("-t", "1", "-i", base, *H264, "-c:a", "aac", tmp_path / "1.ts")
    ffmpeg("-ss", "1", "-t", "4", "-i", base, "-vf", "scale=256:192", *H264, "-c:a", "aac", "-output_ts_offset", "1",
           tmp_path / "2.ts")  # fmt: skip
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "1.ts").read_bytes() + (tmp_path / "2.ts").read_bytes())

    frames, _, _ = load(sandbox, joined)

    off = [abs(one - other) for one, other in zip(numbers(frames), nearest_numbers(0, 34), strict=True)]
    assert max(off) <= 1


def test_untagged_colours_are_kept_end_to_end(tmp_path: Path, sandbox: MediaSandbox) -> None:
    for size in ("128x96", "1280x720"):
        ffmpeg("-f", "lavfi", "-i", f"color=0x3070C0:s={size}:r=30:d=2.2", "-f", "lavfi", "-i", "sine=d=2.2",
               "-vf", f"scale=out_color_matrix={'bt709' if size == '1280x720' else 'bt601'},format=yuv420p",
               *H264, "-c:a", "aac", tmp_path / f"{size}.mp4")  # fmt: skip

        frames, _, _ = load(sandbox, tmp_path / f"{size}.mp4")

        assert np.abs(frames[5].astype(int) - (0x30, 0x70, 0xC0)).max() <= 4


def test_dolby_vision_without_a_standard_base_is_refused(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-t", "3", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0",
           "-tag:v", "hev1", "-c:a", "aac", tmp_path / "a.mp4")  # fmt: skip
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace(b"hev1", b"dvhe"))

    with pytest.raises(MediaError, match="unsupported"):
        sandbox.load(tmp_path / "a.mp4", TOY)


def test_a_cover_image_is_not_a_video_stream(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-frames:v", "1", tmp_path / "cover.png")
    ffmpeg("-i", base, "-i", tmp_path / "cover.png", "-map", "0:a", "-map", "1:v", "-c:a", "aac", "-c:v", "copy",
           "-disposition:v:0", "attached_pic", tmp_path / "song.m4a")  # fmt: skip

    with pytest.raises(MediaError, match="no_video"):
        sandbox.load(tmp_path / "song.m4a", TOY)
