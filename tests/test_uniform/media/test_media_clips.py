"""Normalised clip files: exact length, high PSNR, reproducible bytes; frame sampling and tone mapping."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.errors import InputError, MediaError, SpecMismatchError
from uniform.media.clip_file import probe, read_clip, write_clip
from uniform.media.frame_sampling import SECOND, FrameSampler
from uniform.media.hdr import TRANSFER_HLG, TRANSFER_PQ, tone_map
from uniform.spec import PAPER, TOY, Spec

RNG_SEED = 7


def moving_discs(spec: Spec) -> np.ndarray:
    """Coloured discs that move: flat areas, sharp edges, saturated colours, as in generated clips."""
    rows, columns = np.mgrid[: spec.height_px, : spec.width_px]
    frames = np.full((spec.frames, spec.height_px, spec.width_px, 3), (24, 26, 40), np.uint8)
    for number, colour in enumerate([(230, 60, 50), (60, 200, 90), (70, 120, 240), (240, 220, 80)]):
        for frame in range(spec.frames):
            x = spec.width_px * (0.5 + 0.35 * np.cos(0.11 * frame + 1.6 * number))
            y = spec.height_px * (0.5 + 0.35 * np.sin(0.17 * frame + 1.6 * number))
            frames[frame][(rows - y) ** 2 + (columns - x) ** 2 < (spec.height_px / 9) ** 2] = colour
    return frames


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(RNG_SEED).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("spec", [TOY, PAPER], ids=["toy", "paper"])
def test_a_clip_file_keeps_audio_bit_for_bit_and_frames_to_45_decibels(spec: Spec, tmp_path: Path) -> None:
    frames, waveform = moving_discs(spec), noise(spec.samples)
    write_clip(tmp_path / "a.mp4", frames, waveform, spec.fps, spec.rate_hz)
    write_clip(tmp_path / "lossless.mp4", frames, waveform, spec.fps, spec.rate_hz, crf=0)

    found, sound = read_clip(tmp_path / "a.mp4", spec)
    lossless, _ = read_clip((tmp_path / "lossless.mp4").read_bytes(), spec)

    error = np.mean((found.astype(float) - lossless) ** 2)
    assert 10 * np.log10(255**2 / error) >= 45
    assert np.abs(sound - waveform).max() <= 0.5 / 32_768 + 1e-9 or waveform.max() > 1 - 1 / 32_768
    assert np.array_equal(np.rint(sound * 32_768), np.clip(np.rint(waveform * 32_768), -32_768, 32_767))


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, moving_discs(TOY), noise(TOY.samples), TOY.fps, TOY.rate_hz)

    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_clip_has_a_key_frame_each_second_no_edit_list_and_its_table_in_front(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", moving_discs(PAPER), noise(PAPER.samples), 17, 16_000)

    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 17, 34, 51]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    assert packets[0].pts == 0


def test_aac_and_silent_files_can_be_written_too(tmp_path: Path) -> None:
    write_clip(tmp_path / "aac.mp4", moving_discs(TOY), noise(TOY.samples), TOY.fps, TOY.rate_hz, audio_codec="aac")
    write_clip(tmp_path / "mute.mp4", moving_discs(TOY), None, TOY.fps, TOY.rate_hz)

    with av.open(str(tmp_path / "aac.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert probe(tmp_path / "mute.mp4").rate_hz == 0
    with pytest.raises(SpecMismatchError, match="0 samples"):
        read_clip(tmp_path / "mute.mp4", TOY)


def test_a_clip_of_another_spec_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", moving_discs(TOY), noise(TOY.samples), TOY.fps, TOY.rate_hz)
    content = (tmp_path / "a.mp4").read_bytes()

    with pytest.raises(SpecMismatchError, match=r"34 frames of 64 x 64 px.*'paper' wants 68 frames of 256 x 256"):
        read_clip(content, PAPER)
    for damaged in (b"", b"\0" * 500, content[: len(content) // 2]):
        with pytest.raises(MediaError):
            read_clip(damaged, TOY)


@pytest.mark.parametrize("width", [16, 32, 48, 72, 96, 144, 344])
def test_clips_of_any_width_can_be_read(width: int, tmp_path: Path) -> None:
    spec = Spec(name="odd", height_px=64, width_px=width, duration_s=1, mel_bins=16)
    frames = moving_discs(spec)
    write_clip(tmp_path / "a.mp4", frames, noise(spec.samples), spec.fps, spec.rate_hz)

    found, _ = read_clip(tmp_path / "a.mp4", spec)

    assert found.shape == frames.shape
    assert np.abs(found.astype(int) - frames).mean() < 10


@pytest.mark.parametrize(
    ("frames", "waveform", "problem"),
    [
        (np.zeros((2, 15, 16, 3), np.uint8), None, "even sides"),
        (np.zeros((0, 16, 16, 3), np.uint8), None, "T >= 1"),
        (np.zeros((2, 16, 16, 3), np.float32), None, "uint8"),
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 10), np.float32), "mono"),
        (np.zeros((2, 16, 16, 3), np.uint8), np.full(10, np.nan, np.float32), "finite"),
    ],
)
def test_invalid_content_is_refused_and_nothing_is_written(
    frames: np.ndarray, waveform: np.ndarray | None, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=problem):
        write_clip(tmp_path / "a.mp4", frames, waveform, 17, 16_000)

    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(
    gaps_ms=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    start_ms=st.integers(0, 3_000),
    fps=st.integers(5, 30),
)
def test_every_clip_frame_is_the_nearest_source_frame_that_is_not_too_early(
    gaps_ms: list[int], start_ms: int, fps: int
) -> None:
    times = np.cumsum([0, *gaps_ms]) * (SECOND // 1000)
    picker: FrameSampler[int] = FrameSampler(start_ms * SECOND // 1000, fps, 20)
    shown: list[int] = []
    for number, time in enumerate(times.tolist()):
        if (chosen := picker.add(time, number)) is not None:
            shown += [chosen[0]] * chosen[1]
    if (rest := picker.finish()) is not None:
        shown += [rest[0]] * rest[1]

    assert len(shown) == 20
    for tick, number in enumerate(shown):
        instant = start_ms * SECOND / 1000 + tick * SECOND / fps
        early_enough = [k for k, time in enumerate(times) if time <= instant + SECOND / (2 * fps) + 2] or [0]
        best = min(abs(times[k] - instant) for k in early_enough)
        assert abs(times[number] - instant) <= best + 2


def test_tone_mapping_keeps_black_shadows_order_and_hue() -> None:
    ramp = np.linspace(0, 65_535, 256).round().astype(np.uint16)
    for transfer in (TRANSFER_PQ, TRANSFER_HLG):
        grey = tone_map(np.repeat(ramp[None, :, None], 3, axis=2), transfer)[0]
        assert grey[0].tolist() == [0, 0, 0]
        assert np.all(np.diff(grey[:, 0].astype(int)) >= 0)
        assert np.ptp(grey.astype(int), axis=1).max() <= 1
        assert grey[-1, 0] == 255

    # PQ code of 20.3 nits, a tenth of diffuse white, must come out as a tenth of the light: BT.709 code of 0.1
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (20.3 / 10_000) ** m1
    code = round(65_535 * ((c1 + c2 * power) / (1 + c3 * power)) ** m2)
    shadow = tone_map(np.full((1, 1, 3), code, np.uint16), TRANSFER_PQ)[0, 0, 0]
    assert shadow == pytest.approx(255 * (1.099 * 0.1**0.45 - 0.099), abs=1)
