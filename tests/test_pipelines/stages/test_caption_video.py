"""The model captioner as a stage: a tiny PLLaVA in the published layout."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import uniform.captioning.pllava as pllava
from pipelines.clip import Clip
from pipelines.estimate.codec_bench import generated_clip
from pipelines.stage import Context
from pipelines.stages.caption_video import Stage
from tests.support.pllava_folder import plain_state, write_pllava, write_shards
from tests.support.tiny_captioner import write_captioner
from uniform.captioning.base import Answer, Decoding, Question
from uniform.errors import ConfigError
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.write import write_world


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as published: PEFT-wrapped shards."""
    return write_pllava(tmp_path_factory.mktemp("pllava"))


@pytest.fixture(scope="module")
def captioner(model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_captioner(tmp_path_factory.mktemp("captioner") / "small.toml", model)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world("w1", TOY, tmp_path_factory.mktemp("world"), train_clips=4, test_clips=1, seed=3)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [generated_clip(number, TOY) for number in range(3)]


def stage(captioner: str, **options: object) -> Stage:
    values = {"captioner": captioner, "device": "cpu", "accept": ("caption_cut",), **options}
    return Stage(**values)  # type: ignore[arg-type]


def captioned(made: Stage, given: Sequence[Clip]) -> list[Clip]:
    return list(made.open(Context(spec=TOY))(iter(given)))


def test_captions_record_origin_attempt_and_finish(captioner: str, clips: list[Clip]) -> None:
    found = captioned(stage(captioner), clips)

    assert [clip.dropped for clip in found] == [None] * 3
    for clip in found:
        assert len(clip["caption"].split()) > 3
        assert (clip["origin"], clip["attempt"] in (1, 2), clip["finish"]) == ("model", True, "length")
    assert [clip["caption"] for clip in captioned(stage(captioner), clips[1:2])] == [found[1]["caption"]]


def test_captions_depend_on_the_frames(captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        pllava.Pllava,
        "answer",
        lambda self, questions, decoding: [
            seen.append(q.frames) or Answer("A dog runs.", "stop", 3) for q in questions
        ],
    )

    captioned(stage(captioner), clips)

    assert [frames.shape for frames in seen] == [(4, 3, 56, 56)] * 3
    assert not torch.equal(seen[0], seen[1])


def test_a_rejected_caption_drops_the_clip_with_its_code(captioner: str, clips: list[Clip]) -> None:
    (found,) = captioned(stage(captioner, accept=(), again=False, max_new_tokens=5), clips[:1])

    assert found.dropped is not None
    assert found.dropped.code in ("caption_cut", "caption_loop")
    assert "caption" not in found.fields


def test_out_of_memory_halves_the_batch(captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [clip["caption"] for clip in captioned(stage(captioner), clips)]
    answer, sizes = pllava.Pllava.answer, []

    def tight(self: pllava.Pllava, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        sizes.append(len(questions))
        if len(questions) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, questions, decoding)

    monkeypatch.setattr(pllava.Pllava, "answer", tight)

    found = captioned(stage(captioner), clips)

    assert [clip["caption"] for clip in found] == whole
    assert sizes[:2] == [2, 1]
    assert 2 not in sizes[1:]


def test_a_damaged_clip_is_dropped_and_the_others_are_kept(captioner: str, clips: list[Clip]) -> None:
    broken = Clip(clips[1].row).with_fields(mp4=clips[1]["mp4"][:500])

    found = captioned(stage(captioner), [clips[0], broken, clips[2]])

    assert [clip.dropped and clip.dropped.code for clip in found] == [None, "decode_corrupt", None]


def test_black_clips_get_a_caption_and_clips_without_labels_a_code(
    captioner: str, clips: list[Clip], tmp_path: Path
) -> None:
    write_clip(tmp_path / "black.mp4", np.zeros((34, 64, 64, 3), np.uint8), np.zeros(32_000, np.float32), 17, 16_000)
    black = Clip(clips[0].row).with_fields(mp4=(tmp_path / "black.mp4").read_bytes())

    (found,) = captioned(stage(captioner), [black])
    (unnamed,) = captioned(stage(captioner, prompt="scene_labels"), [black])

    assert found.dropped is None
    assert unnamed.dropped is not None
    assert unnamed.dropped.code == "caption_missing"


def test_of_five_thousand_right_to_left_labels_a_prompt_holds_the_first_24(
    captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tuple(f"صوت {number} <image> {{label}}" for number in range(5_000))
    crowded = Clip(dataclasses.replace(clips[0].row, labels=labels), clips[0].fields)
    ask, asked = pllava.Pllava.answer, []

    def watched(self: pllava.Pllava, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        asked.extend(questions)
        return ask(self, questions, decoding)

    monkeypatch.setattr(pllava.Pllava, "answer", watched)

    (found,) = captioned(stage(captioner, prompt="scene_labels"), [crowded])

    assert found.dropped is None
    assert asked[0].user.count("صوت") == 24
    assert "{label}" in asked[0].user
    assert stage(captioner, prompt="scene_labels").reads == ("labels",)
    assert stage(captioner).reads == ()


def test_frames_can_come_from_the_source(captioner: str, manifest: Path, tmp_path: Path) -> None:
    source = stage(captioner, frames_from="source", source_px=56)
    path = next(manifest.parent.glob("media-*/*.mp4"))
    clip = Clip(generated_clip(0, TOY).row).with_fields(source=str(path))

    (found,) = captioned(source, [clip])

    assert source.needs == ("source", "source_bytes", "source_sha256")
    assert found.dropped is None
    assert found["caption"]
    assert source.provenance(TOY) != stage(captioner).provenance(TOY)


def test_what_changes_a_caption_changes_the_provenance_and_nothing_else_does(
    captioner: str, model: Path, tmp_path: Path
) -> None:
    plain = stage(captioner).provenance(TOY)

    for same in ({"batch_clips": 7}, {"set": "x"}, {"decode_threads": 3}, {"device": "auto"}):
        assert stage(captioner, **same).provenance(TOY) == plain
    for other in ({"prompt": "scene"}, {"frames": 3}, {"max_new_tokens": 9}, {"again": False}, {"most_words": 9}):
        assert stage(captioner, **other).provenance(TOY) != plain
    write_pllava(tmp_path / "other")
    write_shards(tmp_path / "other", plain_state())
    assert stage(captioner, model=str(tmp_path / "other")).provenance(TOY) != plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": "../x"}, r"caption_video\.set"),
        ({"accept": ("caption_cutt",)}, "did you mean 'caption_cut'"),
        ({"source_px": 100}, "multiple of 8"),
        ({"prompt": "scen"}, "did you mean 'scene'"),
        ({"frames": 0}, "frames is 0"),
    ],
)
def test_wrong_options_stop_before_anything_is_loaded(captioner: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage(captioner, **options)
