"""The extractors give the originals' numbers, from checkpoints of the published layout through the real loader."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.evaluation_standin import assert_equals_original, moving_square, reference, sound
from uniform.evaluation.extractors.cnn14 import FrontEnd
from uniform.evaluation.extractors.vggish import log_mel_examples

Open = Callable[[str], Any]


def _outputs_of(extractor: Any, layer: str) -> list[Tensor]:
    """Where the outputs of a layer gather while the extractor runs."""
    seen: list[Tensor] = []
    extractor._network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    return seen


def test_vggish_equals_torchvggish(open_standin: Open) -> None:
    original, extractor = reference("vggish"), open_standin("vggish")
    block1, last = _outputs_of(extractor, "features.2"), _outputs_of(extractor, "features")
    clip = sound("eval.vggish.a", 64_000, 16_000)

    embedding = extractor.features(waveform=clip[None])["embedding"]
    short = extractor.features(waveform=sound("eval.vggish.b", 40_000, 16_000)[None])["embedding"]

    assert_equals_original(log_mel_examples(clip), original["a.examples"])
    assert_equals_original(block1[0][0, ::8], original["a.block1"])
    assert_equals_original(last[0].mean(dim=(2, 3)), original["a.features"])
    assert_equals_original(embedding[0], original["a.embedding"])
    assert_equals_original(embedding[0].relu(), original["a.embedding_relu"])
    assert_equals_original(short[0], original["b.embedding"])


def test_vggishs_principal_components_equal_torchvggishs(open_standin: Open) -> None:
    original, extractor = reference("vggish"), open_standin("vggish_pca8")

    for name, samples in (("a", 64_000), ("b", 40_000)):
        clip = sound(f"eval.vggish.{name}", samples, 16_000)
        steps = extractor.features(waveform=clip[None])["embedding_pca8"][0]
        assert (steps - original[f"{name}.embedding_pca8"]).abs().max() <= 1
        assert steps.unique().numel() > 50


@pytest.mark.parametrize("rate", ["16k", "32k"])
def test_cnn14_equals_panns(open_standin: Open, rate: str) -> None:
    original, extractor = reference(f"cnn14_{rate}"), open_standin(f"cnn14_{rate}")
    block1 = _outputs_of(extractor, "conv_block1")
    rate_hz = extractor.audio.rate_hz
    clips = torch.stack([sound(f"eval.cnn14.{rate}.{name}", 4 * rate_hz, rate_hz) for name in "ab"])

    found = extractor.features(waveform=clips)
    first_block = block1[0][0, ::8, ::4]
    short = extractor.features(waveform=sound(f"eval.cnn14.{rate}.c", 2 * rate_hz, rate_hz)[None])

    assert_equals_original(extractor.front_end(clips[0]), original["log_mel"])
    assert_equals_original(first_block, original["block1"])
    for name in ("embedding", "logits"):
        assert_equals_original(found[name], original[name])
        assert_equals_original(short[name], original[f"short.{name}"])
    if rate == "32k":  # frechet-audio-distance's mel range is another network input, not this extractor's
        wide = FrontEnd(rate_hz=rate_hz, fft_samples=1024, hop_samples=320, max_hz=16_000.0)
        embedding, _ = extractor._network(torch.stack([wide(clip) for clip in clips]))
        assert_equals_original(embedding, original["fmax16000.embedding"])


def test_i3d_equals_tats_and_cd_fvd(open_standin: Open) -> None:
    original, extractor = reference("i3d"), open_standin("i3d_tats")
    layers = {name: _outputs_of(extractor, name) for name in ("Conv3d_1a_7x7", "Mixed_3b", "Mixed_4f", "Mixed_5c")}
    clips = torch.stack([moving_square(f"eval.i3d.{name}", 16, 72, 96) for name in "ab"])

    logits = extractor.features(frames=clips)["logits"]
    inside = {name: outputs[0][0] for name, outputs in layers.items()}
    long = extractor.features(frames=moving_square("eval.i3d.c", 68, 64, 64)[None])["logits"]

    assert_equals_original(extractor.network_input(clips[0])[:, ::5, ::16, ::16], original["squash.input"])
    assert_equals_original(inside.pop("Conv3d_1a_7x7")[::8, ::2, ::8, ::8], original["conv1a"])
    for name, output in inside.items():
        assert_equals_original(output.mean(dim=(2, 3)), original[name])
    assert_equals_original(logits, original["squash.logits"])
    assert_equals_original(long, original["frames68.logits"])


def test_i3d_with_a_crop_equals_mm_diffusion(open_standin: Open) -> None:
    original, extractor = reference("i3d"), open_standin("i3d_mmd")
    clips = torch.stack([moving_square(f"eval.i3d.{name}", 16, 72, 96) for name in "ab"])

    assert_equals_original(extractor.network_input(clips[0])[:, ::5, ::16, ::16], original["crop.input"])
    assert_equals_original(extractor.features(frames=clips)["logits"], original["crop.logits"])


def test_i3d_from_a_torchscript_file_has_the_eps_of_its_training(open_standin: Open) -> None:
    extractor = open_standin("i3d_sgv")
    clips = torch.stack([moving_square(f"eval.i3d.{name}", 16, 72, 96) for name in "ab"])

    assert_equals_original(extractor.features(frames=clips)["logits"], reference("i3d")["squash.logits_eps1e-3"])


def test_c3d_equals_tgan2(open_standin: Open) -> None:
    original, extractor = reference("c3d"), open_standin("c3d_tgan2")
    fc6 = _outputs_of(extractor, "fc6")
    seen: list[Tensor] = []
    for name in ("conv2a", "fc6"):
        extractor._network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].clone())
        )
    clips = torch.stack([moving_square(f"eval.c3d.{name}", 16, 64, 64) for name in "ab"])
    large = moving_square("eval.c3d.c", 16, 128, 171)

    logits = extractor.features(frames=clips)["logits"]
    pool1, pool5, wide = seen[0], seen[1], extractor.features(frames=large[None])["logits"]

    for name, clip in (("a", clips[0]), ("large", large)):
        assert_equals_original(extractor.network_input(clip)[None, :, ::5, ::8, ::8], original[f"{name}.pre"])
    assert_equals_original(pool1[:, ::8, ::5, ::8, ::8], original["a.pool1"])
    assert_equals_original(pool5.reshape(original["a.pool5"].shape), original["a.pool5"])
    assert_equals_original(fc6[0].relu(), original["a.fc6"])
    assert_equals_original(logits, original["a.logits"])
    assert_equals_original(logits.softmax(dim=1), original["a.prob"])
    assert_equals_original(wide, original["large.logits"])
    assert_equals_original(wide.softmax(dim=1), original["large.prob"])
