import io

import numpy as np
import pytest
import torch
from torch import Tensor

import pipelines.stages.encode_text as encode_text
from pipelines.clip import Clip
from pipelines.stage import Context
from pipelines.stages.encode_text import Stage
from tests.support.fake_stages import rows
from uniform.codecs.text_bytes import BytesText
from uniform.errors import ConfigError
from uniform.spec import TOY

CAPTIONS = ["a dog barks", "rain", "a dog barks", "a very long walk by the sea", "", "rain", "犬"]


def clips(captions: list[str] = CAPTIONS) -> list[Clip]:
    return [Clip(row).with_fields(caption=text) for row, text in zip(rows(len(captions)), captions, strict=True)]


def run(stage: Stage, given: list[Clip]) -> list[Clip]:
    return list(stage.open(Context(spec=TOY))(iter(given)))


def features(clip: Clip) -> np.ndarray:
    return np.load(io.BytesIO(clip["text.npy"]), allow_pickle=False)


class Watched(BytesText):
    """The codec; records its batches, and can run out of memory or return NaN."""

    most: int = 100
    bad: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def encode(self, captions: list[str]) -> list[Tensor]:
        self.batches.append(captions)
        if len(captions) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [
            x * float("nan") if c == self.bad else x for c, x in zip(captions, super().encode(captions), strict=True)
        ]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    codec = Watched()
    monkeypatch.setattr(encode_text, "open_text_codec", lambda *_, **__: codec)
    return codec


def test_features_are_float16_at_the_caption_s_own_length_in_the_clips_order() -> None:
    found = run(Stage(), clips())

    assert [features(clip).shape for clip in found] == [(3, 64), (1, 64), (3, 64), (7, 64), (1, 64), (1, 64), (1, 64)]
    assert {features(clip).dtype for clip in found} == {np.dtype(np.float16)}
    for clip in found:
        assert np.array_equal(features(clip), BytesText().encode([clip["caption"]])[0].half().numpy())


def test_a_caption_gives_the_same_bytes_whatever_is_beside_it() -> None:
    together = {clip.row.clip_id: clip["text.npy"] for clip in run(Stage(batch_clips=2), clips())}
    alone = {clip.row.clip_id: run(Stage(), [clip])[0]["text.npy"] for clip in clips()}
    windows = {clip.row.clip_id: clip["text.npy"] for clip in run(Stage(window_clips=2), clips()[::-1])}

    assert together == alone == windows


def test_each_caption_is_encoded_once_sorted_by_length(watched: Watched) -> None:
    run(Stage(batch_clips=2), clips())

    assert watched.batches == [["", "rain"], ["犬", "a dog barks"], ["a very long walk by the sea"]]


def test_captions_that_were_cut_are_noted() -> None:
    long, short = run(Stage(), clips(["drum " * 1000, "drum"]))

    assert [str(note) for note in long.notes] == ["caption cut: 1,000 tokens, 32 kept"]
    assert short.notes == ()


def test_out_of_memory_halves_the_batch_and_goes_on(watched: Watched) -> None:
    watched.most = 1

    found = run(Stage(batch_clips=4), clips())

    assert [len(batch) for batch in watched.batches] == [4, 2, 1, 1, 1, 1, 1]
    assert all(clip.dropped is None for clip in found)


def test_a_caption_whose_features_are_not_finite_is_rejected(watched: Watched) -> None:
    watched.bad = "rain"

    found = run(Stage(), clips())

    codes = [clip.dropped.code if clip.dropped else "ok" for clip in found]
    assert codes == ["ok", "not_finite", "ok", "ok", "ok", "not_finite", "ok"]


def test_each_set_has_its_own_column_and_its_provenance_is_the_card_of_the_codec() -> None:
    stage = Stage(set="detailed", options={"max_tokens": 8})

    assert stage.store.name == "text-detailed"
    assert stage.provenance(TOY)["text"] == BytesText(max_tokens=8).card.as_dict()


@pytest.mark.parametrize("options", [{"set": "Über"}, {"set": ""}, {"batch_clips": 0}, {"window_clips": 0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Stage(**options)
