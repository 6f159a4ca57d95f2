"""Opening a folder of shards: what is right passes, every kind of lie is named before step 0."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from tests.support.shard_folder import change_card, read_index_rows, write_index, write_shard_folder
from uniform.errors import ShardError
from uniform.latents.shards.index import open_index
from uniform.latents.shards.members import Shards, parse_header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard_folder(tmp_path / "shards", clips=12, unit_clips=5, captions=("a", "b"), without_text=(3,))
    return tmp_path / "shards"


def test_members_found_by_index_are_those_of_webdataset(folder: Path) -> None:
    index = open_index(folder)
    shards = Shards(folder, index.shards)
    by_id = {
        sample["__key__"]: sample
        for name in sorted(n for n in index.shards if n.startswith("latents"))
        for sample in wds.WebDataset(str(folder / name), shardshuffle=False, empty_check=False).decode()
    }

    assert len(index.clip_ids) > 0
    for row, clip_id in enumerate(index.clip_ids):
        for member, places in (("video.npy", index.video), ("audio.npy", index.audio)):
            found = shards[places.shard[row]].array(int(places.offset[row]), int(places.length[row]), member)
            assert np.array_equal(found, by_id[clip_id][member])


def test_a_member_is_a_read_only_view_of_the_file(folder: Path) -> None:
    index = open_index(folder)
    array = Shards(folder, index.shards)[0].array(int(index.video.offset[0]), int(index.video.length[0]), "video")

    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.shape == index.spec.video_latent


def test_a_clip_without_a_text_is_known_as_such(folder: Path) -> None:
    index = open_index(folder)

    assert np.flatnonzero(~index.texts["a"].present).tolist() == [3]
    assert index.has_text(["a", "b"]).sum() == 22


def test_only_the_clips_of_the_split_are_kept(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path, clips=10, splits={"train": 7, "test": 3})

    assert open_index(tmp_path, "test").clip_ids.tolist() == ids[7:]
    with pytest.raises(ShardError, match="no clip of split 'valid'; the index has test, train"):
        open_index(tmp_path, "valid")


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_an_index_of_another_number_of_clips_than_the_card_says_is_refused(split: str | None, tmp_path: Path) -> None:
    write_shard_folder(tmp_path, clips=10, splits={"train": 7, "test": 3})
    change_card(tmp_path, clips=7)

    with pytest.raises(ShardError, match=r"lists 10 clips, but card\.json says 7: .* `uniform pipeline run` again"):
        open_index(tmp_path, split)


def test_an_index_of_no_clips_is_refused(folder: Path) -> None:
    write_index(folder, [])

    with pytest.raises(ShardError, match="lists no clip"):
        open_index(folder)


def test_a_missing_index_and_a_missing_card_are_named(folder: Path) -> None:
    (folder / "index.parquet").rename(folder / "elsewhere")
    with pytest.raises(ShardError, match=r"index\.parquet: not found"):
        open_index(folder)
    (folder / "card.json").unlink()
    with pytest.raises(ShardError, match=r"card\.json: not found"):
        open_index(folder)


def test_a_file_that_is_not_parquet_is_refused(folder: Path) -> None:
    (folder / "index.parquet").write_bytes(b"PAR1 but not really")

    with pytest.raises(ShardError, match="not a Parquet file"):
        open_index(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "latents-000001.tar").unlink()

    with pytest.raises(ShardError, match=r"latents-000001\.tar: named by the index, but not there"):
        open_index(folder)


def test_a_shard_cut_in_half_is_found_before_it_is_read(folder: Path) -> None:
    path = folder / "text-b-000002.tar"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(ShardError, match=r"the text 'b' of clip .* of text-b-000002\.tar, which has 1000 bytes"):
        open_index(folder)


@pytest.mark.parametrize("change", [{"offset": 10**12}, {"offset": -512}, {"bytes": 0}, {"bytes": 2**40}])
def test_an_offset_or_length_outside_the_shard_is_refused(folder: Path, change: dict[str, int]) -> None:
    rows = read_index_rows(folder)
    rows[4]["audio"] |= change
    write_index(folder, rows)

    with pytest.raises(ShardError, match=f"the audio of clip {rows[4]['clip_id']} should lie at"):
        open_index(folder)


def test_a_shard_outside_the_folder_is_refused(folder: Path) -> None:
    rows = read_index_rows(folder)
    rows[0]["video"] |= {"shard": "../shards/latents-000000.tar"}
    write_index(folder, rows)

    with pytest.raises(ShardError, match="not a file name of this folder"):
        open_index(folder)


def test_a_clip_listed_twice_or_without_a_latent_is_refused(folder: Path) -> None:
    rows = read_index_rows(folder)
    write_index(folder, [*rows, rows[2]])
    change_card(folder, clips=13)
    with pytest.raises(ShardError, match=f"clip {rows[2]['clip_id']} is listed more than once"):
        open_index(folder)
    rows[1]["video"] = None
    write_index(folder, rows)
    change_card(folder, clips=12)
    with pytest.raises(ShardError, match=f"clip {rows[1]['clip_id']} has no video member"):
        open_index(folder)


def test_a_lying_offset_inside_the_shard_is_found_at_the_member(folder: Path) -> None:
    index = open_index(folder)
    shard = Shards(folder, index.shards)[0]

    with pytest.raises(ShardError, match=r"latents-000000\.tar: the video at byte 1024: no \.npy header"):
        shard.array(1024, int(index.video.length[0]), "the video")
    with pytest.raises(ShardError, match="the index says"):
        shard.array(int(index.video.offset[0]), int(index.video.length[0]) - 2, "the video")


def test_a_flipped_bit_fails_its_checksum(folder: Path) -> None:
    index = open_index(folder)
    offset, length, crc = int(index.audio.offset[2]), int(index.audio.length[2]), int(index.audio.crc32[2])
    path = folder / index.shards[index.audio.shard[2]]
    Shards(folder, index.shards)[0].require_crc(offset, length, crc, "the audio")
    content = bytearray(path.read_bytes())
    content[offset + 200] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(ShardError, match=f"the audio at byte {offset} is damaged"):
        Shards(folder, index.shards)[0].require_crc(offset, length, crc, "the audio")


@pytest.mark.parametrize(
    "fields",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (3, 2), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (-3,), }",
        "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (3,), }",
        "not a dictionary",
    ],
)
def test_a_header_that_is_not_a_plain_array_is_refused(fields: str) -> None:
    text = fields.encode()
    with pytest.raises(ValueError, match=r"\.npy"):
        parse_header(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def test_a_row_count_that_is_not_the_cards_is_refused_before_a_row_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_index_rows(folder)
    write_index(folder, rows * 1000)
    monkeypatch.delattr(pq.ParquetFile, "iter_batches")

    with pytest.raises(ShardError, match=r"lists 12,000 clips, but card\.json says 12"):
        open_index(folder)


def test_an_index_with_huge_cells_is_refused(folder: Path) -> None:
    rows = read_index_rows(folder)
    rows[0]["dataset"] = "d" * (20 << 20)
    write_index(folder, rows)

    with pytest.raises(ShardError, match="the index cannot be trusted"):
        open_index(folder)
