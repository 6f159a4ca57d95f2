"""PaSST, Synchformer, ImageBind and CLAP give the originals' numbers, through the loader that users use."""

import gzip
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.evaluation_standin import (
    REFERENCES,
    assert_equals_original,
    checkpoint,
    moving_square,
    published_shapes,
    reference,
    sound,
)
from tests.support.standin import stand_in_input
from uniform.errors import InputError, WeightsError
from uniform.evaluation.extractors import clap, imagebind, passt, synchformer
from uniform.evaluation.extractors.catalogue import extractor_entry, open_extractor, weights_of
from uniform.evaluation.extractors.clip_tokens import MERGES, ClipTokens
from uniform.evaluation.extractors.imagebind_network import (
    ImageBindNetwork,
    ImageBindSize,
    TrunkSize,
    causal_mask,
    fitted_positions,
    is_of_other_modality,
    other_shapes,
)
from uniform.evaluation.extractors.resized_frames import three_crops
from uniform.evaluation.extractors.tensor_files import shapes_of

SMALL = ImageBindSize(
    embedding=32,
    vision=TrunkSize(width=64, blocks=2, heads=4),
    audio=TrunkSize(width=48, blocks=2, heads=4),
    text=TrunkSize(width=64, blocks=2, heads=4),
)
CONSTANTS = {
    "modality_preprocessors.text.mask": causal_mask(),
    "modality_postprocessors.text.1.log_logit_scale": torch.tensor(1 / 0.07).log(),
    "modality_postprocessors.audio.1.log_logit_scale": torch.tensor(20.0).log(),
}


def _save(name: str, state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / weights_of(extractor_entry(name)).files[0].name
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def passt_s(tmp_path_factory: pytest.TempPathFactory) -> passt.Passt:
    folder = tmp_path_factory.mktemp("passt")
    path = _save("passt", checkpoint(published_shapes("passt")), folder)
    opened = open_extractor("passt", folder)
    path.unlink()
    assert isinstance(opened, passt.Passt)
    return opened


def test_passt_equals_hear21passt(passt_s: passt.Passt) -> None:
    original = reference("passt")
    clips = torch.stack([sound(f"eval.passt.{name}", 128_000, 32_000) for name in "ab"])
    padded = F.pad(clips, (0, 192_000))

    with torch.inference_mode():
        mel = passt.log_mel(padded)
        patches = passt_s.network.patch_embed(mel[:, None])
    found = passt_s.features(waveform=clips)

    assert_equals_original(mel[0, :, :400:2], original["log_mel"])
    assert_equals_original(patches[0, ::16, :, ::9], original["patches"])
    assert_equals_original(found["logits"], original["logits"])
    assert_equals_original(found["embedding"], original["embedding"])


def test_passt_takes_shorter_spectrograms_and_cuts_longer_ones(passt_s: passt.Passt) -> None:
    original = reference("passt")
    clip = sound("eval.passt.a", 128_000, 32_000)[None]

    with torch.inference_mode():
        logits, embedding = passt_s.network(passt.log_mel(clip)[:, None])
    padded = F.pad(clip, (0, 192_000))
    longer = torch.cat([padded, clip], dim=1)

    assert_equals_original(logits, original["unpadded.logits"])
    assert_equals_original(embedding, original["unpadded.embedding"])
    assert torch.equal(passt_s.features(waveform=longer)["logits"], passt_s.features(waveform=clip)["logits"])


def test_passt_refuses_a_file_with_a_tensor_too_few(tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in published_shapes("passt").items()}
    del state["head.1.bias"]
    _save("passt", state, tmp_path)

    with pytest.raises(WeightsError, match=r"1 missing:\n  head\.1\.bias"):
        open_extractor("passt", tmp_path)


@pytest.fixture(scope="module")
def sync(tmp_path_factory: pytest.TempPathFactory) -> synchformer.Synchformer:
    folder = tmp_path_factory.mktemp("synchformer")
    path = _save("synchformer_javis", checkpoint(published_shapes("synchformer")), folder)
    opened = open_extractor("synchformer_javis", folder)
    path.unlink()
    assert isinstance(opened, synchformer.Synchformer)
    return opened


def test_synchformer_equals_av_benchmark(sync: synchformer.Synchformer) -> None:
    original = reference("synchformer")
    wave = sound("eval.sync.a", 64_000, 16_000)[None, :15_360]
    video = moving_square("eval.sync.v", 24, 224, 224)
    inputs = {
        f"{kind}{count}": stand_in_input(f"eval.sync.{kind}{count}", (2, count, tokens, 768))
        for kind, tokens in (("vis", 8), ("aud", 6))
        for count in (14, 11)
    }

    audio_segments = synchformer.in_segments(wave, synchformer.SEGMENT_SAMPLES)[0]
    with torch.inference_mode():
        logits = sync.network.offset_logits(inputs["vis14"], inputs["aud14"])
        repeated = [synchformer.chosen_blocks(inputs[name], "consecutive")[:, 0] for name in ("vis11", "aud11")]
        cyclic = sync.network.offset_logits(*repeated)
        mel = synchformer.log_mel(audio_segments)

    assert_equals_original(mel[0], original["log_mel"])
    assert_equals_original(sync._audio(audio_segments)[None], original["audio_features"])
    assert_equals_original(sync._video(video)[None], original["video_features"])
    assert_equals_original(logits, original["logits14"])
    assert_equals_original(cyclic, original["logits11_cyclic"])


def test_synchformer_gives_an_offset_of_its_grid(sync: synchformer.Synchformer) -> None:
    clip = moving_square("offset", 16, 96, 128)[None]

    found = sync.features(frames=clip, waveform=sound("offset", 10_240, 16_000)[None])

    assert found["logits"].shape == (1, 1, 21)
    assert found["offset_s"].item() == pytest.approx(-2 + 0.2 * int(found["logits"].argmax()))


def test_blocks_of_segments_follow_the_two_rules() -> None:
    features = torch.arange(31)[None, :, None, None]

    both = synchformer.chosen_blocks(features, "first and last")[0, :, :, 0, 0]
    consecutive = synchformer.chosen_blocks(features, "consecutive")[0, :, :, 0, 0]
    short = synchformer.chosen_blocks(features[:, :11], "consecutive")[0, :, :, 0, 0]

    assert both.tolist() == [[*range(14)], [*range(17, 31)]]
    assert consecutive.tolist() == [[*range(14)], [*range(14, 28)], [*range(17, 31)]]
    assert short.tolist() == [[*range(11), 0, 1, 2]]
    with pytest.raises(InputError, match="13 segments"):
        synchformer.chosen_blocks(features[:, :13], "first and last")


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ImageBind in small, the other three networks beside it, as the published file has them."""
    folder = tmp_path_factory.mktemp("imagebind")
    state = checkpoint(published_shapes("imagebind_small"), keep=CONSTANTS)
    _save("imagebind_avb", state | {name: torch.zeros(shape) for name, shape in other_shapes(32).items()}, folder)
    return folder


def _opened(name: str, folder: Path) -> imagebind.ImageBind:
    return imagebind.load(extractor_entry(name), folder, torch.device("cpu"), SMALL)


def test_imagebind_equals_the_original(small_folder: Path) -> None:
    original = reference("imagebind_small")
    bind = _opened("imagebind_javis", small_folder)
    frames = moving_square("eval.imagebind.v", 3, 224, 224)
    wave = sound("eval.imagebind.a", 96_000, 16_000)[None, :64_000]

    images = imagebind.normalised(frames.permute(0, 3, 1, 2))
    found = bind.features(frames=frames[None], waveform=wave)
    with torch.inference_mode():
        clips = bind.network.vision(torch.stack([images[:-1], images[1:]], dim=2)).mean(0, keepdim=True)
        text = bind.network.text(original["text.ids"].long())

    assert_equals_original(imagebind.log_mel(imagebind.windows_of(wave, 3)[0])[0, :, ::2], original["audio.log_mel"])
    assert tuple(found) == bind.outputs
    assert_equals_original(found["frame_embeddings"][0], original["frames.embedding"])
    assert_equals_original(clips, original["clips.embedding"])
    assert_equals_original(found["whole_audio_embedding"], original["audio.embedding"])
    assert_equals_original(found["window_embeddings"][:, 0], original["audio_half_second.embedding"])
    assert_equals_original(text, original["text.embedding"])


def test_imagebind_averages_pairs_of_frames_and_three_crops(small_folder: Path) -> None:
    bind = _opened("imagebind_avb", small_folder)
    frames = moving_square("eval.imagebind.v", 3, 224, 224)

    square = bind.features(frames=frames[None])["clip_embedding"]
    wide = bind.features(frames=moving_square("wide", 3, 224, 300)[None])["clip_embedding"]

    assert_equals_original(square, reference("imagebind_small")["clips.embedding"])
    assert wide.shape == (1, 32)


def test_imagebind_gives_a_clip_the_same_numbers_alone_and_among_others(small_folder: Path) -> None:
    bind = _opened("imagebind_javis", small_folder)
    frames = torch.stack([moving_square(name, 2, 60, 80) for name in "ab"])
    wave = torch.stack([sound(name, 20_000, 16_000) for name in "ab"])

    together = bind.features(frames=frames, waveform=wave)
    alone = bind.features(frames=frames[1:], waveform=wave[1:])

    assert all(torch.equal(together[name][1:], alone[name]) for name in bind.outputs)


def test_windows_lie_evenly_over_the_clip() -> None:
    wave = torch.arange(100_001.0)[None]

    starts = [(int(window[0, 0]), window.shape[1]) for window in imagebind.windows_of(wave, 3)]

    assert starts == [(0, 32_000), (34_000, 32_000), (68_001, 32_000)]
    assert [window.shape[1] for window in imagebind.windows_of(wave[:, :8_000], 3)] == [8_000] * 3


def test_three_crops_lie_at_both_ends_and_in_the_middle() -> None:
    wide = torch.arange(9).repeat(1, 3, 4, 1)

    lefts = [int(crop[0, 0, 0, 0]) for crop in three_crops(wide, 4)]
    tops = [int(crop[0, 0, 0, 0]) for crop in three_crops(wide.transpose(2, 3), 4)]

    assert lefts == tops == [0, 3, 5]


def test_the_published_imagebind_matches_key_by_key() -> None:
    with torch.device("meta"):
        network = ImageBindNetwork(ImageBindSize())
    others = other_shapes()

    assert shapes_of(network) == published_shapes("imagebind_huge")
    assert len(network.state_dict()) + len(others) == 1311
    assert all(is_of_other_modality(name) for name in others)


def test_positions_of_another_grid_are_resized() -> None:
    positions = stand_in_input("positions", (1, 1 + 16 * 16, 8))

    assert fitted_positions(positions, 256) is positions
    assert fitted_positions(positions, 400).shape == (1, 401, 8)


def test_a_text_mask_of_another_network_is_refused(tmp_path: Path) -> None:
    state = checkpoint(published_shapes("imagebind_small"), keep=CONSTANTS)
    state["modality_preprocessors.text.mask"] = torch.zeros(77, 77)
    _save("imagebind_avb", state, tmp_path)

    with pytest.raises(WeightsError, match="differs from what the method defines"):
        _opened("imagebind_avb", tmp_path)


def test_texts_become_the_originals_tokens(small_folder: Path) -> None:
    """The vocabulary of the test holds the pairs of two sentences at their published places, others are fillers."""
    texts = ["The video shows a dog barking.", "waves crash on a rocky shore; seagulls cry"]
    pairs = json.loads((REFERENCES / "clip_pairs.json").read_text())
    lines = ["#version"] + [pairs.get(str(place), f"filler{place} pair{place}") for place in range(MERGES)]
    vocabulary = small_folder / "bpe_simple_vocab_16e6.txt.gz"
    vocabulary.write_bytes(gzip.compress("\n".join(lines).encode()))
    original = reference("imagebind_small")

    assert torch.equal(ClipTokens.from_file(vocabulary).ids(texts), original["text.ids"].long())
    found = _opened("imagebind_avb", small_folder).features(texts=texts)["text_embedding"]
    assert_equals_original(found, original["text.embedding"])


def test_a_missing_vocabulary_says_how_to_get_it(tmp_path: Path) -> None:
    _save("imagebind_avb", checkpoint(published_shapes("imagebind_small"), keep=CONSTANTS), tmp_path)

    with pytest.raises(WeightsError, match="weights fetch clip_vocabulary"):
        _opened("imagebind_avb", tmp_path).features(texts=["a dog"])


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"two\nlines here", mtime=0), gzip.compress(b"\xff\xfe", mtime=0)]
)
def test_a_damaged_vocabulary_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match="vocabulary"):
        ClipTokens.from_file(path)


def _clap_folder(folder: Path) -> Path:
    from safetensors.torch import save_file
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    target = folder / "clap_htsat_unfused"
    target.mkdir()
    config = ClapConfig(**json.loads((REFERENCES / "eval_clap_small.json").read_text()))
    kept = {
        name: tensor
        for name, tensor in ClapModel(config).state_dict().items()
        if not tensor.is_floating_point() or name.startswith("logit_scale")
    }
    state = checkpoint(published_shapes("clap_small"), keep=kept)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target / "model.safetensors")
    (target / "config.json").write_text(config.to_json_string())
    ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(target)
    return folder


def test_clap_equals_transformers(tmp_path: Path) -> None:
    original = reference("clap_small")
    extractor = open_extractor("clap_htsat_unfused", _clap_folder(tmp_path))
    assert isinstance(extractor, clap.Clap)
    clips = torch.stack([sound(f"eval.clap.{name}", 192_000, 48_000) for name in "ab"])

    audio = extractor.features(waveform=clips)["audio_embedding"]
    text = extractor.text_embedding(original["input_ids"].long(), original["attention_mask"].long())
    scale = extractor.model.logit_scale_a.exp()

    assert_equals_original(extractor.log_mel(clips[0])[0, 0, ::8], original["input_features"])
    assert_equals_original(audio, original["audio_embeds"])
    assert_equals_original(text, original["text_embeds"])
    assert_equals_original(scale * audio @ text.T, original["logits_per_audio"])


def test_clap_cuts_at_ten_seconds_and_never_at_random(tmp_path: Path) -> None:
    extractor = open_extractor("clap_htsat_unfused", _clap_folder(tmp_path))
    longer = sound("long", 576_000, 48_000)[None]

    first = extractor.features(waveform=longer)["audio_embedding"]

    assert torch.equal(first, extractor.features(waveform=longer[:, :480_000])["audio_embedding"])


def test_clap_with_another_front_end_is_refused(tmp_path: Path) -> None:
    settings = _clap_folder(tmp_path) / "clap_htsat_unfused" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("rand_trunc", "fusion"))

    with pytest.raises(WeightsError, match="the front end is a part of the metric"):
        open_extractor("clap_htsat_unfused", tmp_path)
