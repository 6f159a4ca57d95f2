"""The stage clip_media: each clip is normalised or dropped."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.clip import Clip, Row
from pipelines.run.ledger import status_of
from pipelines.stage import Context, Stage, check_order, stage_class
from tests.support.media_files import ffmpeg, nearest_numbers, numbers, write_numbered
from uniform.config import Document, build
from uniform.errors import ConfigError, MediaError
from uniform.media.clip_file import read_clip
from uniform.media.sandbox import MediaSandbox
from uniform.spec import TOY


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("base") / "base.mp4")


def clip_of(path: Path, start_ms: int = 0) -> Clip:
    row = Row(
        clip_id=f"{abs(hash((path.name, start_ms))):016x}"[:16], dataset="d", split="train", source_kind="local",
        source_id=path.stem, source_uri=path.name, start_ms=start_ms, duration_ms=TOY.duration_ms,
    )  # fmt: skip
    return Clip(row, {"source": str(path)})


def test_clips_come_out_normalised_or_dropped_in_order(base: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>404</html>")
    ffmpeg("-i", base, "-an", "-c", "copy", tmp_path / "mute.mp4")
    ffmpeg(
        "-i", base, "-itsoffset", "0.5", "-i", base, "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / "late.mkv"
    )
    clips = [
        clip_of(base, 1_000),
        clip_of(tmp_path / "page.mp4"),
        clip_of(tmp_path / "mute.mp4"),
        clip_of(tmp_path / "gone.mp4"),
        clip_of(tmp_path / "late.mkv"),
    ]

    made = list(stage_class("clip_media")().open(Context(spec=TOY))(iter(clips)))

    assert [clip.row for clip in made] == [clip.row for clip in clips]
    found = [(status_of(clip.dropped.code), clip.dropped.code) if clip.dropped else None for clip in made]
    assert found == [
        None,
        ("rejected", "not_media"),
        ("rejected", "no_audio"),
        ("failed", "missing_source"),  # retryable: the file can come back
        None,
    ]
    frames, _ = read_clip(made[0]["mp4"], TOY)
    assert numbers(frames) == nearest_numbers(1.0, TOY.frames)
    assert [str(note) for note in made[4].notes] == ["audio starts 500 ms late"]


def test_a_span_shorter_than_a_clip_is_not_filled_with_the_rest_of_the_source(base: Path) -> None:
    clip = clip_of(base)
    short = replace(clip, row=replace(clip.row, duration_ms=TOY.duration_ms - 1))

    (made,) = stage_class("clip_media")().open(Context(spec=TOY))(iter([short]))

    assert made.dropped is not None
    assert (made.dropped.code, made.dropped.reason) == (
        "too_short",
        "the listing's span is 1,999 ms, a clip is 2,000 ms",
    )


def test_the_stage_reads_its_clips_lazily(base: Path) -> None:
    def endless():
        while True:
            yield clip_of(base)

    work = stage_class("clip_media")().open(Context(spec=TOY))
    stream = work(endless())

    assert next(stream)["mp4"] == next(stream)["mp4"]


@pytest.mark.parametrize("code", ["decode_timeout", "decode_memory", "decode_crash", "too_large", "unreadable_source"])
def test_limits_and_disk_faults_are_failures_not_rejections(
    code: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*args: object, **options: object) -> None:
        raise MediaError(code, "ended")

    monkeypatch.setattr(MediaSandbox, "normalise", ended)

    (made,) = stage_class("clip_media")().open(Context(spec=TOY))(iter([clip_of(base)]))

    assert made.dropped is not None
    assert (status_of(made.dropped.code), made.dropped.code) == ("failed", code)


def test_options_change_the_clip_and_the_provenance(base: Path) -> None:
    cls = stage_class("clip_media")
    results, provenances = set(), []
    for options in ({}, {"fit": "squash"}, {"crf": 30}):
        stage = cls(**options)
        results.add(next(stage.open(Context(spec=TOY))(iter([clip_of(base)])))["mp4"])
        provenances.append(stage.provenance(TOY))

    assert len(results) == 3
    assert all(one != other for i, one in enumerate(provenances) for other in provenances[:i])
    assert cls(time_limit_s=5.0).provenance(TOY) == cls().provenance(TOY)


@pytest.mark.parametrize(
    ("key", "value"), [("fit", "stretch"), ("crf", 52), ("time_limit_s", 0.0), ("memory_limit_mb", 10)]
)
def test_options_out_of_range_name_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        build(stage_class("clip_media"), {key: value}, Document(Path("r.toml"), "", {}))


def test_the_stage_fits_the_contract() -> None:
    stage = stage_class("clip_media")()

    assert isinstance(stage, Stage)
    assert (tuple(stage.needs), tuple(stage.gives), stage.store.kind, stage.store.name) == (
        ("source", "source_bytes", "source_sha256"), ("mp4",), "tar", "clips",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="needs 'source'"):
        check_order([("clip_media", stage)])
