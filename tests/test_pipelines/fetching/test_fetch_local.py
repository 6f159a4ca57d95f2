"""Local sources: found, hashed and left where they are; never from outside the dataset's folder."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.clip import Clip, Row
from pipelines.codes import CODES
from pipelines.run.ledger import status_of
from pipelines.stage import Context
from pipelines.stages.fetch_media import Stage
from uniform.spec import TOY

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="own",
    split="train",
    source_kind="local",
    source_id="a.mp4",
    source_uri="a.mp4",
    start_ms=0,
    duration_ms=4000,
)


def fetch(root: Path, *uris: str, **changes: object) -> list[Clip]:
    work = Stage().open(Context(spec=TOY, roots={"own": root}))
    return list(work(iter([Clip(replace(ROW, source_uri=uri, **changes)) for uri in uris])))  # type: ignore[arg-type]


def test_a_local_source_is_the_file_itself_with_its_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"content")

    (clip,) = fetch(tmp_path, "a.mp4")

    digest = hashlib.sha256(b"content").hexdigest()
    assert clip.dropped is None
    assert dict(clip.fields) == {
        "source": str(tmp_path / "a.mp4"),
        "source_bytes": 7,
        "source_sha256": digest,
        "source_format": None,
        "source_title": None,
        "source_fetched": None,
    }
    assert Path(clip["source"]).is_absolute()


def test_one_comes_out_for_each_that_goes_in_in_the_same_order(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")

    clips = fetch(tmp_path, "b.mp4", "gone.mp4", "a.mp4", "../a.mp4", "b.mp4")

    assert [clip.row.source_uri for clip in clips] == ["b.mp4", "gone.mp4", "a.mp4", "../a.mp4", "b.mp4"]
    codes = [clip.dropped.code if clip.dropped else None for clip in clips]
    assert codes == [None, "missing_source", None, "outside_root", None]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(tmp_path / "secret")

    (clip,) = fetch(tmp_path / "videos", "a.mp4")

    assert clip.dropped is not None
    assert (status_of(clip.dropped.code), clip.dropped.code) == ("failed", "outside_root")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir()])
def test_what_is_no_file_is_missing_and_holds_nothing_up(tmp_path: Path, make: object) -> None:
    make(tmp_path / "a.mp4")  # type: ignore[operator]

    (clip,) = fetch(tmp_path, "a.mp4")

    assert clip.dropped is not None
    assert clip.dropped.code == "missing_source"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "a.mp4").chmod(0)

    (clip,) = fetch(tmp_path, "a.mp4")

    assert clip.dropped is not None
    assert clip.dropped.code == "unreadable_source"


def test_a_promised_digest_is_held(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"content")

    (good,) = fetch(tmp_path, "a.mp4", expected_digest=hashlib.sha256(b"content").hexdigest())
    (bad,) = fetch(tmp_path, "a.mp4", expected_digest="0" * 64)

    assert good.dropped is None
    assert bad.dropped is not None
    assert bad.dropped.code == "digest_mismatch"


def test_a_file_that_changes_is_hashed_anew(tmp_path: Path) -> None:
    work = Stage().open(Context(spec=TOY, roots={"own": tmp_path}))

    def digests() -> Mapping[str, object]:
        (clip,) = work(iter([Clip(ROW)]))
        return clip.fields

    (tmp_path / "a.mp4").write_bytes(b"one")
    first = digests()
    (tmp_path / "a.mp4").write_bytes(b"three")

    assert digests() != first


def test_an_unknown_kind_and_an_unknown_data_set_have_codes(tmp_path: Path) -> None:
    (odd,) = fetch(tmp_path, "a.mp4", source_kind="carrier_pigeon")
    (lost,) = fetch(tmp_path, "a.mp4", dataset="other")

    assert odd.dropped is not None
    assert lost.dropped is not None
    assert (odd.dropped.code, lost.dropped.code) == ("no_fetcher", "missing_source")
    assert {odd.dropped.code, lost.dropped.code} <= set(CODES)
