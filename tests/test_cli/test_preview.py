import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from tests.support.shard_folder import change_card, write_shard_folder
from uniform.codecs.base import open_audio_codec, open_video_codec
from uniform.media.clip_file import probe
from uniform.sampling.contact_sheet import Entry, contact_sheet, side_by_side
from uniform.spec import TOY

RUNNER = CliRunner()


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, list[str]]:
    folder = tmp_path / "shards"
    ids = write_shard_folder(folder, clips=5, unit_clips=3, video_card=open_video_codec("dct", TOY).card)
    change_card(folder, audio=open_audio_codec("dct", TOY).card.as_dict())
    return folder, ids


def preview(folder: Path, out: Path, *options: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["shards", "preview", str(folder), "--out", str(out), *options])
    return result.exit_code, result.output


def test_preview_writes_a_playable_file_per_clip_and_a_contact_sheet(
    shards: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, ids = shards

    code, output = preview(folder, tmp_path / "out", "-n", "3")

    assert code == 0, output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted([f"{ids[0]}.mp4", f"{ids[2]}.mp4", f"{ids[4]}.mp4", "contact_sheet.png"])
    properties = probe(tmp_path / "out" / f"{ids[2]}.mp4")
    assert (properties.frames, properties.height_px, properties.samples >= TOY.samples) == (
        TOY.frames,
        TOY.height_px,
        True,
    )
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width == 8 * 128


def test_preview_writes_at_most_the_clips_of_the_index(shards: tuple[Path, list[str]], tmp_path: Path) -> None:
    code, _ = preview(shards[0], tmp_path / "out", "-n", "50")

    assert code == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 5


def test_preview_refuses_shards_of_another_codec(shards: tuple[Path, list[str]], tmp_path: Path) -> None:
    card = open_video_codec("dct", TOY).card.as_dict()
    change_card(shards[0], video={**card, "code_version": 0, "fingerprint": "0" * 16})

    code, output = preview(shards[0], tmp_path / "out")

    assert code == 1
    assert "code_version" in output
    assert "found" in output
    assert not (tmp_path / "out").exists()


def test_preview_refuses_damaged_bytes(shards: tuple[Path, list[str]], tmp_path: Path) -> None:
    shard = next(shards[0].glob("latents-000000.tar"))
    content = bytearray(shard.read_bytes())
    content[3000] ^= 0xFF
    shard.write_bytes(content)

    code, output = preview(shards[0], tmp_path / "out")

    assert code == 1
    assert "damaged" in output


def test_preview_refuses_a_missing_folder_and_a_number_below_1(shards: tuple[Path, list[str]], tmp_path: Path) -> None:
    assert preview(tmp_path / "nowhere", tmp_path / "out")[0] == 1
    assert preview(shards[0], tmp_path / "out", "-n", "0")[0] == 1


def test_a_contact_sheet_has_a_row_for_each_clip() -> None:
    frames, waveform = np.zeros((17, 64, 64, 3), np.uint8), np.zeros(16_000, np.float32)

    one, two = (contact_sheet([Entry("title", frames, waveform)] * count) for count in (1, 2))

    heights = [Image.open(io.BytesIO(png)).height for png in (one, two)]
    assert heights[1] == 2 * heights[0]


def test_side_by_side_joins_left_and_right_with_a_gap() -> None:
    left, right = np.full((2, 8, 8, 3), 10, np.uint8), np.full((2, 8, 8, 3), 200, np.uint8)

    both = side_by_side(left, right)

    assert both.shape == (2, 8, 24, 3)
    assert (both[:, :, :8] == 10).all()
    assert (both[:, :, 16:] == 200).all()
