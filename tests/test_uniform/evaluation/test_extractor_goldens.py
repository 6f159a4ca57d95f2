"""The extractors give the originals' numbers, from checkpoints of the published layout through the real loader."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.evaluation_standin import (
    RELU_GAIN,
    assert_equals_original,
    checkpoint,
    published_shapes,
    reference,
    sound,
)
from uniform.evaluation.extractors.catalogue import extractor_entry, open_extractor, weights_of
from uniform.evaluation.extractors.vggish import log_mel_examples


def _file_name(extractor: str, index: int = 0) -> str:
    return weights_of(extractor_entry(extractor)).files[index].name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def _inside(extractor: Any, layer: str) -> list[Tensor]:
    """Where the outputs of a layer gather while the extractor runs."""
    seen: list[Tensor] = []
    extractor._network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    return seen


def test_vggish_equals_torchvggish(folder: Path) -> None:
    torch.save(checkpoint(published_shapes("vggish"), RELU_GAIN), folder / _file_name("vggish"))
    original = reference("vggish")
    extractor = open_extractor("vggish", folder)
    block1, last = _inside(extractor, "features.2"), _inside(extractor, "features")
    clip = sound("eval.vggish.a", 64_000, 16_000)

    embedding = extractor.features(waveform=clip[None])["embedding"]
    short = extractor.features(waveform=sound("eval.vggish.b", 40_000, 16_000)[None])["embedding"]

    assert_equals_original(log_mel_examples(clip), original["a.examples"])
    assert_equals_original(block1[0][0, ::8], original["a.block1"])
    assert_equals_original(last[0].mean(dim=(2, 3)), original["a.features"])
    assert_equals_original(embedding[0], original["a.embedding"])
    assert_equals_original(embedding[0].relu(), original["a.embedding_relu"])
    assert_equals_original(short[0], original["b.embedding"])
