"""The two sides of an evaluation: folders and lists, and what is refused of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniform.errors import InputError
from uniform.evaluation.sets import ClipFile, ClipSet, read_set, require_join


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_folder_gives_its_videos_and_not_what_lies_beside_them(tmp_path: Path) -> None:
    _touch(tmp_path, "b.mp4", "a.mp4", "a.wav", "a.png", "index.html", ".hidden/c.mp4", "sub/d.webm", ".x.mp4")
    (tmp_path / "a.json").write_text(json.dumps({"request": {"text": "a dog"}}))
    (tmp_path / "b.json").write_text("[not the sampler's")

    found = read_set(tmp_path, "generated")

    assert [(clip.clip_id, clip.text) for clip in found.clips] == [("a", "a dog"), ("b", ""), ("sub/d", "")]
    assert found.cache == tmp_path / ".uniform-features"


def test_audio_files_count_where_they_have_no_video(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "a.wav", "b.flac")

    assert read_set(tmp_path, "real").clip_ids == ("a",)
    assert read_set(tmp_path, "real", audio_only=True).clip_ids == ("a", "b")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_a_list_gives_its_rows_in_order_of_ids(tmp_path: Path, suffix: str) -> None:
    _touch(tmp_path, "x/1.mp4", "x/2.mp4")
    rows = [
        {"clip_id": "two", "path": "x/2.mp4", "sample": 1, "text": "two, again", "label": None},
        {"clip_id": "two", "path": "x/2.mp4", "sample": 0, "text": "", "label": "rain"},
        {"clip_id": "one", "path": "x/1.mp4", "sample": 0, "text": "", "label": None},
    ]
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        lines = [",".join("" if v is None else f'"{v}"' for v in row.values()) for row in rows]
        path.write_text("\n".join(["clip_id,path,sample,text,label", *lines]))

    found = read_set(path, "real")

    assert [(clip.clip_id, clip.sample, clip.text, clip.label) for clip in found.clips] == [
        ("one", 0, "", ""),
        ("two", 0, "", "rain"),
        ("two", 1, "two, again", ""),
    ]
    assert found.clips[0].path == tmp_path / "x/1.mp4"
    assert found.cache == tmp_path / f"list{suffix}.uniform-features"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clip_id": "a"}', "row 1 has no path"),
        ('{"path": "a.mp4"}', "row 1 has no clip_id"),
        ("[1]", ":1: not a JSON object"),
        ("{nonsense", ":1: not a JSON object"),
        ('{"clip_id": "a", "path": "a.mp4", "sample": "x"}', "sample is 'x'"),
        ('{"clip_id": "a", "path": "a.mp4", "sample": -1}', "sample is -1"),
        ('{"clip_id": "a", "path": "../a.mp4"}', r"1 paths lie outside .* \(\.\./a\.mp4\)"),
        ('{"clip_id": "a", "path": "/etc/passwd"}', r"1 paths lie outside .*/etc/passwd"),
        ("", "holds no media file"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_set(tmp_path / "in" / "list.jsonl", "real")


def test_a_root_allows_what_lies_in_it(tmp_path: Path) -> None:
    _touch(tmp_path, "media/a.mp4")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.jsonl").write_text(json.dumps({"clip_id": "a", "path": "../media/a.mp4"}))

    assert read_set(tmp_path / "lists" / "l.jsonl", "real", root=tmp_path).clip_ids == ("a",)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "outside.mp4", "in/a.mp4")
    (tmp_path / "in" / "b.mp4").symlink_to(tmp_path / "outside.mp4")
    with pytest.raises(InputError, match=r"1 files are links to places outside the folder \(b\.mp4\)"):
        read_set(tmp_path / "in", "real")


def test_doubles_are_refused_with_count_and_names(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "a.mkv", "b.mp4", "b.webm", "c.mp4")
    with pytest.raises(InputError, match=r"names 2 clips more than once \(a, b\)"):
        read_set(tmp_path, "real")


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder nor a list"):
        read_set(tmp_path / "nothing", "real")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_set(tmp_path / "bad.parquet", "real")
    (tmp_path / "bad.csv").write_bytes(b"clip_id,path\n\xff\xfe,x\n")
    with pytest.raises(InputError, match="not readable as UTF-8"):
        read_set(tmp_path / "bad.csv", "real")


def _set(name: str, *ids: str) -> ClipSet:
    clips = tuple(ClipFile(clip_id=clip_id, path=Path(f"{clip_id}.mp4")) for clip_id in sorted(ids))
    return ClipSet(name=name, place=Path(name), clips=clips)


def test_five_names_are_shown_and_the_rest_is_counted() -> None:
    ours, theirs = _set("generated", "a"), _set("real", "a", *(f"x{n}" for n in range(9)))
    with pytest.raises(InputError, match=r"9 real without a partner \(x0, x1, x2, x3, x4 and 4 more\)"):
        require_join(ours, theirs, same_clips=True, allow_unequal=False)
    assert require_join(ours, theirs, same_clips=True, allow_unequal=True) == ("a",)


def test_sets_without_a_clip_in_common_are_refused_in_any_case() -> None:
    with pytest.raises(InputError, match="no generated clip has a real partner"):
        require_join(_set("generated", "a"), _set("real", "b"), same_clips=True, allow_unequal=True)
