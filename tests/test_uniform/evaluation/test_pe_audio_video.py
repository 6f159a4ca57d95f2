"""PE-AV through transformers' classes: a rebuilt folder in small gives what the classes give, strictly loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.support.evaluation_standin import assert_equals_original, moving_square, sound
from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import open_extractor
from uniform.evaluation.extractors.pe_audio_video import PeAudioVideo, frame_settings

pytest.importorskip("timm", reason="the image part of PE-AV is timm's")

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
}
VISION = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_tiny_patch16_384",
    "do_pooling": True,
    "num_classes": 24,
    "global_pool": "map",
    "model_args": {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "ref_feat_shape": (2, 2)},
}
DAC = {
    "model_type": "dac",
    "encoder_hidden_size": 4,
    "downsampling_ratios": [2, 8, 10, 12],
    "codebook_dim": 8,
    "hidden_size": 64,
    "decoder_hidden_size": 16,
}
TEXT = {
    "model_type": "modernbert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
PROCESSOR = {
    "feature_extractor": {"sampling_rate": 48_000, "hop_length": 1920},
    "video_processor": {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_sample_frames": True,
        "num_frames": 4,
    },
}


def _small_model() -> Any:
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

    config = PeAudioVideoConfig(
        text_config=TEXT,
        audio_video_config={
            **SIZES,
            "audio_config": {"model_type": "pe_audio_encoder", "dac_config": DAC, **SIZES},
            "video_config": {"model_type": "pe_video_encoder", "vision_config": VISION, **SIZES},
        },
    )
    torch.manual_seed(0)
    return PeAudioVideoModel(config).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return _small_model()


def _folder(model: Any, place: Path) -> Path:
    folder = place / "pe_audio_video"
    model.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def test_pe_av_equals_transformers(model: Any, tmp_path: Path) -> None:
    _folder(model, tmp_path)
    frames = moving_square("pe", 7, 40, 56)[None]
    waveform = sound("pe", 30_000, 48_000)[None]
    images = F.interpolate(frames[0].permute(0, 3, 1, 2), (32, 32), mode="bilinear", antialias=True)[[0, 2, 4, 6]]
    steps = F.pad(waveform[None], (0, 720), mode="reflect")

    found = open_extractor("pe_audio_video", tmp_path).features(frames=frames, waveform=waveform)
    with torch.inference_mode():
        wanted = model.get_audio_video_embeds(
            steps, ((images.float() / 255 - 0.5) / 0.5)[None], return_audio_embeds=True, return_video_embeds=True
        )

    assert_equals_original(found["audio_embedding"], wanted.audio_embeds)
    assert_equals_original(found["video_embedding"], wanted.video_embeds)


def test_a_clip_does_not_depend_on_the_clips_beside_it(model: Any, tmp_path: Path) -> None:
    _folder(model, tmp_path)
    extractor = open_extractor("pe_audio_video", tmp_path)
    frames = torch.stack([moving_square(name, 5, 40, 56) for name in "ab"])
    waveform = torch.stack([sound(name, 9_600, 48_000) for name in "ab"])

    both = extractor.features(frames=frames, waveform=waveform)
    alone = extractor.features(frames=frames[1:], waveform=waveform[1:])

    assert all(torch.equal(both[name][1:], alone[name]) for name in extractor.outputs)


def test_a_file_without_a_tensor_is_refused(model: Any, tmp_path: Path) -> None:
    file = _folder(model, tmp_path) / "model.safetensors"
    state = load_file(file)
    del state["audio_video_head.proj.weight"]
    save_file(state, file)

    with pytest.raises(WeightsError, match=r"1 missing:\n  audio_video_head\.proj\.weight"):
        open_extractor("pe_audio_video", tmp_path)


def test_an_image_network_that_is_an_address_is_refused_before_it_is_asked_for(model: Any, tmp_path: Path) -> None:
    settings = _folder(model, tmp_path) / "config.json"
    settings.write_text(settings.read_text().replace("vit_pe_core_tiny_patch16_384", "hf-hub:someone/network"))

    with pytest.raises(WeightsError, match="'hf-hub:someone/network'; wanted one of timm's vit_pe_"):
        open_extractor("pe_audio_video", tmp_path)


def test_all_frames_are_looked_at_where_the_folder_names_no_number(tmp_path: Path) -> None:
    path = tmp_path / "processor_config.json"
    found = PROCESSOR["video_processor"] | {"do_sample_frames": False, "num_frames": None}
    path.write_text(json.dumps({"video_processor": found}))

    assert frame_settings(path).frames is None


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"video_processor": {"size": {"height": "tall"}}}))

    with pytest.raises(WeightsError, match="says nothing usable of frames"):
        frame_settings(path)


def test_the_extractor_says_what_it_is(model: Any, tmp_path: Path) -> None:
    _folder(model, tmp_path)

    extractor = open_extractor("pe_audio_video", tmp_path)

    assert isinstance(extractor, PeAudioVideo)
    assert extractor.licence == "Apache-2.0"
    assert [(file.name, file.known) for file in extractor.weights] == [("model.safetensors", False)]
