"""The clips of a manifest as what `uniform sample` can be asked for."""

import json
from pathlib import Path

import pytest

from pipelines.manifest.build import clips_of, write_parquet
from pipelines.manifest.prompts import sample_tables
from uniform.errors import ManifestError

LINES = (
    {"path": "a.mp4", "start": 500, "split": "train", "caption": "a dog barks"},
    {"path": "b.mp4", "start": 0, "split": "test", "caption": "rain"},
    {"path": "gone.mp4", "start": 0, "split": "lost", "caption": None},
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "media" / name).write_bytes(b"not looked into here")
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "clips.toml").write_text(
        """
        name = "clips"
        kind = "local"
        title = "Three clips"
        root = "media"
        license = "CC0-1.0"
        [listing]
        file = "clips.jsonl"
        duration_s = 2.0
        [listing.columns]
        source_uri = "path"
        start_ms = "start"
        split = "split"
        caption = "caption"
        """
    )
    return tmp_path / "clips.toml"


def test_a_caption_is_enough_where_no_modality_is_given(manifest: Path) -> None:
    tables = sample_tables(manifest, None, with_media=False)

    ids = [row.clip_id for row in clips_of(manifest)[0]]
    assert tables == [{"name": ids[0], "text": "a dog barks"}, {"name": ids[1], "text": "rain"}, {"name": ids[2]}]


def test_clips_give_their_own_file_and_start(manifest: Path) -> None:
    (table,) = sample_tables(manifest, "train", with_media=True)

    assert (table["media"], table["start_ms"]) == (str(manifest.parent / "media" / "a.mp4"), 500)


def test_a_built_table_finds_its_files_beside_itself(manifest: Path) -> None:
    table = manifest.parent / "media" / "manifest.parquet"
    write_parquet(clips_of(manifest)[0], table)

    assert sample_tables(table, "test", with_media=True) == sample_tables(manifest, "test", with_media=True)


def test_a_missing_file_and_an_unknown_split_are_named(manifest: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no file 'gone\.mp4' below"):
        sample_tables(manifest, "lost", with_media=True)
    with pytest.raises(ManifestError, match="no clip is of split 'valid'; there are lost, test, train"):
        sample_tables(manifest, "valid", with_media=False)


def test_clips_that_are_not_files_here_are_refused(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text('{"url": "https://example.org/a.mp4", "start": 0}\n')
    (tmp_path / "web.toml").write_text(
        """
        name = "web"
        kind = "http"
        title = "One clip"
        license = "CC0-1.0"
        [listing]
        file = "web.jsonl"
        duration_s = 2.0
        [listing.columns]
        source_uri = "url"
        start_ms = "start"
        """
    )

    with pytest.raises(ManifestError, match=r"is of kind 'http'.*Fetch the clips"):
        sample_tables(tmp_path / "web.toml", None, with_media=True)
