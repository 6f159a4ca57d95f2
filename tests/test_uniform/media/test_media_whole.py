"""A clip that decodes whole is kept, whatever the header says; no limit of the reader counts as a fault of the file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from uniform.errors import MediaError
from uniform.media.sandbox import MediaSandbox
from uniform.spec import PAPER, TOY

CASES = Path(__file__).parents[2] / "data" / "cases" / "media"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[MediaSandbox]:
    with MediaSandbox() as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "starts_ms"),
    [
        ("start_at_30s.mkv", (0, 3000)),
        ("one_key_frame_96s.flv", (0, 40_000)),
        ("one_key_frame_110s.mkv", (0, 40_000)),
        ("pause_3s_to_11s.mp4", (0, 1000, 5000, 11_500)),
        ("clock_wraps_at_7s.ts", (0, 2000, 4000, 6000, 8000)),
        ("two_parts_each_from_1.4s.ts", (4000,)),
        ("damaged_4.4s_to_4.8s.mp4", (2000, 6000, 6500, 8000)),
        ("each_time_twice.mkv", (0,)),
    ],
)
def test_a_clip_that_decodes_whole_is_kept(name: str, starts_ms: tuple[int, ...], sandbox: MediaSandbox) -> None:
    for start_ms in starts_ms:
        made = sandbox.normalise(CASES / name, TOY, start_ms)
        assert made.mp4
        assert not made.notes, (name, start_ms, made.notes)


@pytest.mark.parametrize("start_ms", [4000, 5000])
def test_damage_inside_the_clip_or_its_group_is_corrupt(start_ms: int, sandbox: MediaSandbox) -> None:
    with pytest.raises(MediaError) as caught:
        sandbox.normalise(CASES / "damaged_4.4s_to_4.8s.mp4", TOY, start_ms)
    assert caught.value.code == "decode_corrupt"


def test_a_clock_that_jumps_back_is_named(sandbox: MediaSandbox) -> None:
    with pytest.raises(MediaError, match="the clock jumps") as caught:
        sandbox.normalise(CASES / "two_parts_each_from_1.4s.ts", TOY, 7000)
    assert caught.value.code == "bad_timestamps"


def test_eight_planar_channels_are_kept(sandbox: MediaSandbox) -> None:
    loaded = sandbox.load(CASES / "aac_7.1.mp4", PAPER, want_video=False)
    assert loaded.waveform is not None
    assert float(abs(loaded.waveform).max()) > 0.01


def test_an_audio_packet_whose_header_does_not_parse_costs_that_packet_only(sandbox: MediaSandbox) -> None:
    notes = sandbox.normalise(CASES / "one_sound_packet_broken.mp4", PAPER).notes
    assert [note.code for note in notes] == ["bad_audio_packets"]
