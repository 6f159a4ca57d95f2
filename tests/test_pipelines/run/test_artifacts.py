"""Tars and index: what any WebDataset reader opens, and what lint finds."""

import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from pipelines.clip import Clip
from pipelines.run.artifacts import write_table, write_tar
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import fake_run, npy, rows
from uniform.errors import ShardError, SpecMismatchError, UniformError
from uniform.latents.format import INDEX_SCHEMA, ids_digest, read_card
from uniform.latents.shards.lint import info, require_sound
from uniform.latents.shards.tar import walk
from uniform.spec import TOY

CLIPS = [Clip(row, {"mp4": bytes([n]) * (n * 700), "json": b"{}"}) for n, row in enumerate(rows(5))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "run"
    run_pipeline(fake_run(out), InlineBackend(), LogListener())
    return out


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A finished run that a test may harm."""
    return shutil.copytree(made, tmp_path / "run")


def test_the_tar_is_what_webdataset_would_write(tmp_path: Path) -> None:
    write_tar(tmp_path / "ours.tar", "clips", ("mp4", "json"), CLIPS)

    with (
        (tmp_path / "theirs.tar").open("wb") as file,
        webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False) as writer,
    ):
        for clip in CLIPS:
            writer.write({"__key__": clip.row.clip_id, **clip.fields})

    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_webdataset_reads_the_shards(finished: Path) -> None:
    samples = list(webdataset.WebDataset(str(finished / "latents-000000.tar"), shardshuffle=False, empty_check=False))

    index = pq.read_table(finished / "index.parquet").to_pylist()
    assert [sample["__key__"] for sample in samples] == [row["clip_id"] for row in index if row["unit"] == 0]
    assert np.load(io.BytesIO(samples[0]["video.npy"])).shape == TOY.video_latent


def test_the_index_says_where_every_member_lies(finished: Path) -> None:
    table = pq.read_table(finished / "index.parquet")

    assert table.schema.equals(INDEX_SCHEMA)
    for row in table.to_pylist():
        for place in (row["video"], row["audio"], row["meta"], *row["texts"]):
            content = (finished / place["shard"]).read_bytes()[place["offset"] :][: place["bytes"]]
            assert len(content) == place["bytes"]
        assert (
            json.loads((finished / row["meta"]["shard"]).read_bytes()[row["meta"]["offset"] :][: row["meta"]["bytes"]])[
                "clip_id"
            ]
            == row["clip_id"]
        )
        assert (row["frames"], row["has_audio"], [text["set"] for text in row["texts"]]) == (34, True, ["labels"])


def test_the_card_holds_the_statistics_of_the_indexed_latents(finished: Path) -> None:
    latents = [
        np.load(io.BytesIO(entry.content)).astype(np.float64)
        for path in sorted(finished.glob("latents-*.tar"))
        for entry in walk(path)
        if entry.name.endswith("video.npy")
    ]

    card = read_card(finished)
    stacked = np.stack(latents).transpose(1, 0, 2, 3, 4).reshape(4, -1)
    np.testing.assert_allclose(card.statistics["video"]["mean"], stacked.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(card.statistics["video"]["std"], stacked.std(axis=1), atol=1e-12)
    ids = pq.read_table(finished / "index.parquet")["clip_id"].to_pylist()
    assert (card.clips, card.counts["ok"], card.ids_digest) == (len(ids), len(ids), ids_digest(ids))
    assert card.licences == ("CC-BY-4.0",)


def test_lint_accepts_a_finished_run(finished: Path) -> None:
    assert require_sound(finished) == read_card(finished).clips


def test_info_counts(finished: Path) -> None:
    found = info(finished)

    assert sum(found.splits.values()) == found.card.clips
    assert found.shards == {"latents": 4, "text-labels": 4}


def cut_in_half(folder: Path) -> None:
    shard = folder / "latents-000001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def cut_at_a_header(folder: Path) -> None:
    shard = folder / "latents-000001.tar"
    last = list(walk(shard))[-1]
    shard.write_bytes(shard.read_bytes()[: last.offset - 512])


def lose_a_shard(folder: Path) -> None:
    (folder / "text-labels-000000.tar").unlink()


def flip_a_bit(folder: Path) -> None:
    shard = folder / "latents-000001.tar"
    content = bytearray(shard.read_bytes())
    content[next(walk(shard)).offset + 200] ^= 1
    shard.write_bytes(content)


def lie_about_an_offset(folder: Path) -> None:
    change_index(folder, lambda row: row["video"].update(offset=row["video"]["offset"] + 512))


def lie_about_a_sum(folder: Path) -> None:
    change_index(folder, lambda row: row["audio"].update(crc32=7))


def lead_outside(folder: Path) -> None:
    change_index(folder, lambda row: row["video"].update(shard="../latents-000000.tar"))


def name_a_clip_twice(folder: Path) -> None:
    table = pq.read_table(folder / "index.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "index.parquet")


def change_index(folder: Path, change: Callable[[dict], None]) -> None:
    listed = pq.read_table(folder / "index.parquet").to_pylist()
    change(listed[0])
    pq.write_table(pa.Table.from_pylist(listed, schema=INDEX_SCHEMA), folder / "index.parquet")


def other_columns(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "index.parquet").drop_columns(["audio"]), folder / "index.parquet")


def another_count(folder: Path) -> None:
    change_card(folder, clips=3)


def another_format(folder: Path) -> None:
    change_card(folder, format_version=9)


def lose_the_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def change_card(folder: Path, **values: object) -> None:
    found = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**found, **values}))


def no_parquet(folder: Path) -> None:
    (folder / "index.parquet").write_bytes(b"PAR1 but not really")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_in_half, r"latents-000001.tar: .*(ends after|not a whole tar)"),
        (cut_at_a_header, r"latents-000001.tar: the file ends after"),
        (lose_a_shard, r"text-labels-000000.tar: is not there"),
        (flip_a_bit, r"latents-000001.tar: .* has the sum"),
        (lie_about_an_offset, r"latents-000000.tar: .*the index says"),
        (lie_about_a_sum, r"has the sum .*the index says 00000007"),
        (lead_outside, r"may lead outside"),
        (name_a_clip_twice, r"names 1 clips more than once"),
        (other_columns, r"index.parquet: its columns are"),
        (another_count, r"card.json: says 3 clips"),
        (another_format, r"format version 9"),
        (lose_the_card, r"card.json: not found"),
        (no_parquet, r"index.parquet: cannot be read"),
    ],
)
def test_lint_names_the_harm(harm: Callable[[Path], None], message: str, finished: Path) -> None:
    harm(finished)

    with pytest.raises(ShardError, match=message):
        require_sound(finished)


def rewrite(folder: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Change the members of the first shard, and change the index to match."""
    shard = folder / "latents-000000.tar"
    entries = [change(entry.name, entry.content) for entry in walk(shard)]
    with tarfile.open(shard, "w") as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    places = {entry.name: entry for entry in walk(shard)} if all("/" not in name for name, _ in entries) else {}
    listed = pq.read_table(folder / "index.parquet").to_pylist()
    for row in listed:
        for column, field in (("video", "video.npy"), ("audio", "audio.npy"), ("meta", "json")):
            entry = places.get(f"{row['clip_id']}.{field}")
            if row["unit"] == 0 and entry:
                row[column].update(offset=entry.offset, bytes=len(entry.content), crc32=zlib.crc32(entry.content))
    pq.write_table(pa.Table.from_pylist(listed, schema=INDEX_SCHEMA), folder / "index.parquet")


def not_a_number(name: str, content: bytes) -> tuple[str, bytes]:
    if not name.endswith("video.npy"):
        return name, content
    latent = np.load(io.BytesIO(content))
    latent[0, 0, 0, 0] = np.nan
    return name, npy(latent)


def another_shape(name: str, content: bytes) -> tuple[str, bytes]:
    return name, npy(np.zeros((8, 100, 16), np.float16)) if name.endswith("audio.npy") else content


def single_precision(name: str, content: bytes) -> tuple[str, bytes]:
    return name, npy(np.zeros(TOY.audio_latent, np.float32)) if name.endswith("audio.npy") else content


def a_pickle(name: str, content: bytes) -> tuple[str, bytes]:
    if not name.endswith("audio.npy"):
        return name, content
    file = io.BytesIO()
    np.save(file, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    return name, file.getvalue()


def another_codec(name: str, content: bytes) -> tuple[str, bytes]:
    if not name.endswith(".json"):
        return name, content
    return name, json.dumps({**json.loads(content), "codecs": {"video": "0123456789abcdef"}}).encode()


def a_way_out(name: str, content: bytes) -> tuple[str, bytes]:
    return f"../{name}", content


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (not_a_number, ShardError, "holds 1 values that are NaN or infinite"),
        (another_shape, SpecMismatchError, r"has shape \(8, 100, 16\); the card's spec 'toy' wants \(8, 50, 4\)"),
        (single_precision, ShardError, "is float32, wanted float16"),
        (a_pickle, ShardError, "not a .npy array"),
        (another_codec, SpecMismatchError, "was made by the video codec 0123456789abcdef; the card says"),
        (a_way_out, ShardError, "is not a plain file of the shard's own folder"),
    ],
)
def test_lint_looks_into_the_members(
    change: Callable[[str, bytes], tuple[str, bytes]], error: type[UniformError], message: str, finished: Path
) -> None:
    rewrite(finished, change)

    with pytest.raises(error, match=message):
        require_sound(finished)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_folders_are_no_members(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "latents-000000.tar", "w") as tar:
        member = tarfile.TarInfo("0123456789abcdef.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)

    with pytest.raises(ShardError, match="not a plain file"):
        list(walk(tmp_path / "latents-000000.tar"))


def measured(level: float, lost: float) -> list[Clip]:
    return [Clip(row, {"level": level, "curve": [0.5, lost], "more": {"top": None}}) for row in rows(2)]


def test_a_table_may_hold_nan_and_is_still_read_back(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", ["level", "curve", "more"], measured(float("nan"), float("nan")))

    assert np.isnan(pq.read_table(tmp_path / "a.parquet")["level"].to_numpy()).all()


@pytest.mark.parametrize("other", [(float("nan"), 0.25), (0.1 + 2**-55, float("nan"))])
def test_a_table_with_nan_that_comes_back_changed_is_found(
    other: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = ["level", "curve", "more"]
    write_table(tmp_path / "other.parquet", fields, measured(*other))
    read = pq.read_table
    monkeypatch.setattr("pipelines.run.artifacts.pq.read_table", lambda path, **_: read(tmp_path / "other.parquet"))

    with pytest.raises(ShardError, match="The disk or its memory is failing"):
        write_table(tmp_path / "a.parquet", fields, measured(0.1, float("nan")))
    assert not (tmp_path / "a.parquet").exists()
