"""Chat models of transformers as captioners: tiny ones with stand-in weights, frames as images and as a video."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from tests.support.pllava_folder import WORDS, plain_state, write_pllava
from tests.support.standin import stand_in_state
from uniform.captioning.base import Captioner, Decoding, Question
from uniform.captioning.chat import ChatModel
from uniform.captioning.settings import Settings
from uniform.errors import ConfigError, WeightsError

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% elif c['type'] == 'video' %}<|video_pad|>"
    "{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
WITH_SYSTEM = f"{{# system #}}{TEMPLATE}"
DECODING = Decoding(max_new_tokens=6)
CLIPS = [np.random.default_rng(n).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8) for n in range(3)]
USERS = ["a dog", "the man walks near the river", "rain"]


def settings(folder: Path, content: str, **changes: object) -> Settings:
    values = {"name": "tiny", "backend": "chat", "model": str(folder), "content": content, "dtype": "float32"}
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def write_llava(folder: Path, template: str | None = WITH_SYSTEM) -> Path:
    write_pllava(folder, plain_state())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    images = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(str(folder))
    return folder


def write_qwen(folder: Path) -> Path:
    pytest.importorskip("torchvision", reason="transformers' video processors need torchvision")
    from transformers import Qwen2VLProcessor, Qwen2VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    signs = ["<pad>", "<s>", "</s>", "<unk>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    names = [*signs, ":", "USER", "ASSISTANT", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=signs[4:],
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    sizes = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=256, max_pixels=1024, **sizes),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(min_pixels=256, max_pixels=1024, **sizes),
        chat_template=WITH_SYSTEM,
    ).save_pretrained(str(folder))
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, **sizes_of(sizes)}
    text = {
        "vocab_size": len(names),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    tokens = {"vision_start_token_id": 4, "vision_end_token_id": 5, "image_token_id": 6, "video_token_id": 7}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)
    with torch.device("meta"):
        network = Qwen2VLForConditionalGeneration(config)
    state = stand_in_state({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.save_pretrained(str(folder))
    return folder


def sizes_of(processor: dict[str, int]) -> dict[str, int]:
    """The network's names of the processor's sizes."""
    return {
        "patch_size": processor["patch_size"],
        "spatial_merge_size": processor["merge_size"],
        "temporal_patch_size": processor["temporal_patch_size"],
    }


@pytest.fixture(scope="module", params=["images", "video"])
def captioner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    folder = tmp_path_factory.mktemp(request.param)
    write = write_llava if request.param == "images" else write_qwen
    found = settings(write(folder), request.param).open("cpu")
    assert isinstance(found, ChatModel)
    return found


def questions(captioner: ChatModel) -> list[Question]:
    return [Question(captioner.prepare(frames), "look", user) for frames, user in zip(CLIPS, USERS, strict=True)]


def test_a_padded_batch_gives_what_single_clips_give(captioner: ChatModel) -> None:
    asked = questions(captioner)

    together = captioner.answer(asked, DECODING)

    assert isinstance(captioner, Captioner)
    assert together == [captioner.answer([question], DECODING)[0] for question in asked]
    assert all(answer.finish == "stop" or answer.tokens == 6 for answer in together)


def test_every_frame_reaches_the_model_and_the_prompt_is_the_template_s(captioner: ChatModel) -> None:
    inputs = captioner._inputs(questions(captioner))

    ids = inputs["input_ids"]
    text = captioner.processor.tokenizer.decode(ids[1], skip_special_tokens=True)
    if "pixel_values_videos" in inputs:
        assert inputs["video_grid_thw"].tolist() == [[1, 4, 4]] * 3
        assert (ids == 7).sum(dim=1).tolist() == [4, 4, 4]
    else:
        assert inputs["pixel_values"].shape == (6, 3, 56, 56)
        assert (ids == 127).sum(dim=1).tolist() == [32, 32, 32]
    assert "the man walks near the river" in text
    assert text.rstrip().endswith("ASSISTANT :")


def test_answers_depend_on_the_frames(captioner: ChatModel) -> None:
    inputs = [captioner._inputs([Question(frames, "look", "rain")]) for frames in CLIPS[:2]]

    with torch.no_grad():
        first, second = (captioner.network(**given).logits for given in inputs)

    assert not torch.allclose(first, second)


def test_signs_in_a_label_stay_words(captioner: ChatModel) -> None:
    honest, forged = (
        captioner._inputs([Question(CLIPS[0], "", user)])["input_ids"]
        for user in ("a dog", "a <image> <|video_pad|> </s> dog")
    )

    placeholder = 7 if 7 in honest else 127
    assert int((honest == placeholder).sum()) == int((forged == placeholder).sum())


def test_a_template_without_a_system_turn_gets_everything_in_the_user_s(tmp_path: Path) -> None:
    captioner = settings(write_llava(tmp_path, TEMPLATE), "images").open("cpu")
    assert isinstance(captioner, ChatModel)

    ids = captioner._inputs([Question(CLIPS[0], "look", "rain")])["input_ids"][0]

    assert "look" not in WORDS
    assert captioner._dialogue(Question(CLIPS[0], "look", "rain"))[0]["content"][-1]["text"] == "look rain"
    assert len(captioner._dialogue(Question(CLIPS[0], "look", "rain"))) == 1
    assert ids.numel() > 32


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no chat template"):
        settings(write_llava(tmp_path, None), "images").open("cpu")


def test_a_model_that_takes_no_video_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'LlavaProcessor takes no video here\. Set content = "images"'):
        settings(write_llava(tmp_path), "video").open("cpu")


def test_weights_that_lack_a_tensor_stop(tmp_path: Path) -> None:
    write_llava(tmp_path)
    shard = tmp_path / "model-00001-of-00003.safetensors"
    state = load_file(shard)
    gone = next(key for key in sorted(state) if "layers" in key)
    save_file({key: tensor for key, tensor in state.items() if key != gone}, shard)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"][gone]
    index.write_text(json.dumps(content))

    with pytest.raises(WeightsError, match="the weights do not fit the model"):
        settings(tmp_path, "images").open("cpu")


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    write_llava(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))

    with pytest.raises(WeightsError, match="tiny"):
        settings(tmp_path, "images").open("cpu")
