"""Broken, endless, hostile and non-media files cost one file, never the process, and are refused with a reason."""

import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import (
    BEEP_S,
    beep_start_s,
    beeping_sound,
    ffmpeg,
    nearest_numbers,
    numbers,
    write_numbered,
)
from tests.support.paths import ROOT
from uniform.errors import ConfigError, MediaError, PipelineError
from uniform.media.clip_file import read_clip
from uniform.media.container import open_source
from uniform.media.sandbox import MediaSandbox
from uniform.spec import TOY


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("base") / "base.mp4")


@pytest.fixture(scope="module")
def sandbox():
    with MediaSandbox(time_limit_s=120) as opened:
        yield opened


def code_of(sandbox: MediaSandbox, path: Path, start_ms: int = 0) -> str:
    with pytest.raises(MediaError) as caught:
        sandbox.normalise(path, TOY, start_ms)
    assert caught.value.reason
    return caught.value.code


def test_a_normalised_clip_has_exactly_the_frames_and_samples_of_its_spec(base: Path, sandbox: MediaSandbox) -> None:
    frames, waveform = read_clip(sandbox.normalise(base, TOY, 500).mp4, TOY)

    assert numbers(frames) == nearest_numbers(0.5, TOY.frames)
    assert beep_start_s(waveform) == pytest.approx(BEEP_S - 0.5, abs=0.005)


def test_the_same_file_gives_the_same_bytes_in_any_child(base: Path, sandbox: MediaSandbox) -> None:
    with MediaSandbox() as another:
        assert another.normalise(base, TOY).mp4 == sandbox.normalise(base, TOY).mp4


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_media"),
        (b"just some text\n" * 50, "not_media"),
        (bytes(range(256)) * 64, "not_media"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{base}\n#EXT-X-ENDLIST\n", "not_media"),
        (b"ffconcat version 1.0\nfile '{base}'\n", "not_media"),
        (b'<?xml version="1.0"?><MPD><BaseURL>{base}</BaseURL></MPD>', "not_media"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "truncated"),
    ],
    ids=["empty", "web page", "text", "bytes", "m3u8", "concat", "dash", "ftyp only"],
)
def test_files_that_are_not_media_are_rejected(
    content: bytes, code: str, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    (tmp_path / "x.mp4").write_bytes(content.replace(b"{base}", str(base).encode()))

    assert code_of(sandbox, tmp_path / "x.mp4") == code


def test_only_regular_files_are_opened(tmp_path: Path, sandbox: MediaSandbox) -> None:
    os.mkfifo(tmp_path / "endless.mp4")

    assert code_of(sandbox, tmp_path / "endless.mp4") == "not_media"
    assert code_of(sandbox, Path("/dev/zero")) == "not_media"
    assert code_of(sandbox, tmp_path) == "not_media"
    assert code_of(sandbox, tmp_path / "absent.mp4") == "missing_source"


@pytest.mark.parametrize(
    "name", ["-y.mp4", "a b'c\".mp4", "concat:x|y.mp4", "http:%2f.mp4", "päröß 音.mp4", "%03d.mp4"]
)
def test_a_file_name_is_never_read_as_a_protocol_or_option(
    name: str, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    (tmp_path / name).write_bytes(base.read_bytes())

    assert sandbox.normalise(tmp_path / name, TOY).mp4 == sandbox.normalise(base, TOY).mp4


def test_encrypted_samples_have_their_own_code(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    key = ("-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb", "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")
    ffmpeg("-i", base, "-c:v", "copy", "-c:a", "aac", "-encryption_scheme", "cenc-aes-ctr", *key, tmp_path / "e.mp4")

    assert code_of(sandbox, tmp_path / "e.mp4") == "encrypted"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["front.mp4", "back.mp4", "a.mkv", "a.avi"])
def test_a_cut_file_is_truncated_even_where_its_start_plays(
    name: str, share: float, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    front = ("-movflags", "+faststart") if name == "front.mp4" else ()
    ffmpeg("-i", base, "-c:v", "copy" if name != "a.avi" else "mpeg4", "-c:a", "flac" if name != "a.avi" else "mp2",
           *front, tmp_path / name)  # fmt: skip
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])

    assert code_of(sandbox, tmp_path / name) == "truncated"


def test_a_false_hour_in_the_header_costs_no_whole_clip(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-c", "copy", tmp_path / "a.mkv")
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    at = content.index(b"\x44\x89\x88") + 3
    content[at : at + 8] = struct.pack(">d", 3_600_000.0)
    (tmp_path / "a.mkv").write_bytes(content)

    assert sandbox.normalise(tmp_path / "a.mkv", TOY).mp4
    assert code_of(sandbox, tmp_path / "a.mkv", 60_000) == "truncated"


def test_a_clip_past_the_end_is_too_short(base: Path, sandbox: MediaSandbox) -> None:
    assert code_of(sandbox, base, 4_200) == "too_short"
    assert code_of(sandbox, base, 60_000) == "too_short"
    assert sandbox.normalise(base, TOY, 4_000).mp4


def test_missing_streams_have_their_own_codes(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-an", "-c", "copy", tmp_path / "mute.mp4")
    ffmpeg("-i", base, "-vn", "-c", "copy", tmp_path / "no_video.mp4")
    ffmpeg("-i", base, "-t", "3", "-vf", "scale=64:48", tmp_path / "a.gif")

    assert code_of(sandbox, tmp_path / "mute.mp4") == "no_audio"
    assert code_of(sandbox, tmp_path / "no_video.mp4") == "no_video"
    assert code_of(sandbox, tmp_path / "a.gif") == "no_audio"


def test_audio_alone_and_video_alone_can_be_loaded(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-an", "-c", "copy", tmp_path / "mute.mp4")
    seen = sandbox.load(tmp_path / "mute.mp4", TOY, want_audio=False)
    assert seen.frames is not None
    assert numbers(seen.frames) == nearest_numbers(0, TOY.frames)
    assert seen.waveform is None

    for name in ("a.wav", "a.mp3", "a.flac", "a.ogg", "a.m4a"):
        ffmpeg("-i", base, "-vn", "-t", "1.5", "-ar", "44100", tmp_path / name)
        loaded = sandbox.load(tmp_path / name, TOY, want_video=False)
        assert loaded.frames is None
        assert loaded.waveform is not None
        assert beep_start_s(loaded.waveform) == pytest.approx(BEEP_S, abs=0.01)
        assert len(loaded.notes) == 1
        assert "early" in str(loaded.notes[0])
        assert not loaded.waveform[-6_400:].any()


def test_too_many_pixels_are_refused_before_decoding(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniform.media.container.MAX_PIXELS", 128 * 96 - 1)

    with pytest.raises(MediaError, match="too_large"):
        open_source(base)


def test_a_hanging_decoder_is_killed_at_the_time_limit_and_the_next_file_is_decoded(base: Path) -> None:
    with MediaSandbox(time_limit_s=4) as sandbox:
        before = sandbox.normalise(base, TOY).mp4
        assert sandbox.child_id is not None
        os.kill(sandbox.child_id, signal.SIGSTOP)
        assert code_of(sandbox, base) == "decode_timeout"
        assert sandbox.child_id is None
        assert sandbox.normalise(base, TOY).mp4 == before


def test_a_decoder_that_dies_costs_one_file(base: Path) -> None:
    with MediaSandbox() as sandbox:
        before = sandbox.normalise(base, TOY).mp4
        child = sandbox.child_id
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (child, signal.SIGSEGV))
        resumer = threading.Timer(0.4, os.kill, (child, signal.SIGCONT))
        killer.start()
        resumer.start()
        with pytest.raises(MediaError, match=r"decode_crash.*SIGSEGV"):
            sandbox.normalise(base, TOY)
        killer.join()
        resumer.join()
        assert sandbox.normalise(base, TOY).mp4 == before


def test_a_file_that_needs_more_memory_than_allowed_is_rejected(tmp_path: Path, base: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=5000x4000:r=10:d=3", "-f", "lavfi", "-i", "sine=d=3", "-c:v", "mjpeg",
           "-c:a", "pcm_s16le", tmp_path / "big.mov")  # fmt: skip
    with MediaSandbox(memory_limit_mb=192) as sandbox:
        assert code_of(sandbox, tmp_path / "big.mov") == "decode_memory"
        assert sandbox.normalise(base, TOY).mp4


def test_children_are_replaced_after_so_many_files(base: Path) -> None:
    with MediaSandbox(recycle_after=2) as sandbox:
        children = []
        for _ in range(5):
            sandbox.normalise(base, TOY)
            children.append(sandbox.child_id)

    assert children[0] == children[1] != children[2] == children[3] != children[4]


def test_a_closed_sandbox_leaves_no_process_and_no_folder(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox = MediaSandbox()
    sandbox.normalise(base, TOY)
    child = sandbox.child_id
    assert child is not None
    sandbox.close()

    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_child_is_light_and_never_imports_torch() -> None:
    program = "import sys, uniform.media.child; print(sorted({'torch', 'decord', 'ray', 'pyarrow'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_invalid_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory_limit_mb 8"):
        MediaSandbox(memory_limit_mb=8)


def test_a_child_that_cannot_start_stops_the_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")

    with MediaSandbox() as sandbox, pytest.raises(PipelineError, match="did not start"):
        sandbox.normalise(base, TOY)


def test_audio_that_starts_late_ends_early_or_starts_before_the_video_is_at_its_true_time(
    base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    cases = {
        "0.5": (0.5, "audio starts 500 ms late"),
        "-0.4": (-0.4, "audio begins 400 ms before the picture; that much is left out"),
    }
    for offset, (shift_s, note) in cases.items():
        path = tmp_path / f"{offset}.mkv"
        ffmpeg("-i", base, "-itsoffset", offset, "-i", base, "-map", "0:v", "-map", "1:a", "-c", "copy", path)
        made = sandbox.normalise(path, TOY)
        frames, waveform = read_clip(made.mp4, TOY)
        assert beep_start_s(waveform) - (BEEP_S + shift_s) == pytest.approx(0, abs=0.01)
        assert numbers(frames)[17] in (30, 31)
        assert [str(one) for one in made.notes] == [note]

    ffmpeg("-i", base, "-t", "1.2", "-i", base, "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / "short.mp4")
    made = sandbox.normalise(tmp_path / "short.mp4", TOY)
    assert len(made.notes) == 1
    assert str(made.notes[0]).endswith("ms early")


@pytest.mark.parametrize(
    ("layout", "rate_hz"), [("mono", 8_000), ("stereo", 96_000), ("5.1", 48_000), ("quad", 22_050)]
)
def test_every_layout_and_rate_becomes_the_mono_mix(
    layout: str, rate_hz: int, base: Path, tmp_path: Path, sandbox: MediaSandbox
) -> None:
    ffmpeg("-i", base, "-c:v", "copy", "-af", f"aresample={rate_hz},aformat=channel_layouts={layout}",
           "-c:a", "pcm_s16le", tmp_path / "a.mov")  # fmt: skip
    _, wanted = read_clip(sandbox.normalise(base, TOY).mp4, TOY)
    _, found = read_clip(sandbox.normalise(tmp_path / "a.mov", TOY).mp4, TOY)

    assert beep_start_s(found) == pytest.approx(BEEP_S, abs=0.005)
    beep = slice(16_100, 16_700)
    share = np.dot(found[beep], wanted[beep]) / np.dot(wanted[beep], wanted[beep])
    assert share == pytest.approx({"5.1": 1 / 3.4142}.get(layout, share), rel=0.1)  # a lone centre keeps its share
    assert share > 0.2


def test_antiphase_stereo_gives_one_channel_and_a_note(base: Path, tmp_path: Path, sandbox: MediaSandbox) -> None:
    ffmpeg("-i", base, "-c:v", "copy", "-af", "pan=stereo|c0=c0|c1=-1*c0", "-c:a", "pcm_s16le", tmp_path / "a.mov")

    made = sandbox.normalise(tmp_path / "a.mov", TOY)

    _, waveform = read_clip(made.mp4, TOY)
    assert np.abs(waveform).max() == pytest.approx(np.abs(beeping_sound()).max(), rel=0.05)
    assert "cancel" in str(made.notes[0])
