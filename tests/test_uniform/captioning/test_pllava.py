"""PLLaVA on the LLaVA of transformers, compared with outputs of the original code with the same stand-in weights."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from tests.support.pllava_folder import (
    DATA,
    pixels,
    plain_state,
    wrapped_state,
    write_pllava,
    write_sentencepiece,
    write_shards,
    write_tokenizer,
)
from tests.support.standin import stand_in
from uniform.captioning.base import Captioner, Decoding, Question
from uniform.captioning.frames import segment_centres
from uniform.captioning.pllava import Pllava
from uniform.captioning.pllava_weights import library_name, merged_tensors
from uniform.captioning.settings import Settings, known_captioners
from uniform.errors import ConfigError, WeightsError

REFERENCE = load_file(DATA / "pllava_small.safetensors")
VISUAL = 16


def settings(folder: Path, **changes: object) -> Settings:
    values = {"name": "small", "backend": "pllava", "model": str(folder), "pooling": (4, 2, 2), "dtype": "float32"}
    return Settings(**{**values, "frames": 4, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pllava(tmp_path_factory.mktemp("pllava"))


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Pllava:
    found = settings(folder).open("cpu")
    assert isinstance(found, Pllava)
    return found


def reference_prompt() -> list[int]:
    """The reference's prompt with the image token once for each visual token."""
    ids = REFERENCE["input_ids"][0].tolist()
    place = ids.index(127)
    return ids[:place] + [127] * VISUAL + ids[place + 1 :]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).abs().max()) <= 2e-4 * float(wanted.abs().max())


def test_visual_tokens_equal_those_of_the_original_code(captioner: Pllava) -> None:
    with torch.no_grad():
        found = captioner.pooled(pixels())

    assert found.shape == (1, VISUAL, 48)
    assert close(found, REFERENCE["pooled"])


def test_logits_equal_those_of_the_original_code(captioner: Pllava) -> None:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    with torch.no_grad():
        visual = BaseModelOutputWithPooling(pooler_output=list(captioner.pooled(pixels())))
        ids = torch.tensor([reference_prompt()])
        found = captioner.network(input_ids=ids, mm_encoder_outputs={"image": visual}).logits

    assert found.shape == REFERENCE["logits"].shape
    assert close(found, REFERENCE["logits"])


def test_greedy_tokens_equal_those_of_the_original_code(captioner: Pllava, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `answer` itself: only the prompt's words are replaced by token ids of the reference."""
    monkeypatch.setattr(captioner, "prompt_ids", lambda system, user: reference_prompt())
    generate, drawn = captioner.network.generate, []
    monkeypatch.setattr(captioner.network, "generate", lambda **given: drawn.append(generate(**given)) or drawn[0])

    (answer,) = captioner.answer([Question(pixels()[0], "", "")], Decoding(max_new_tokens=12))

    new = REFERENCE["generated"][0, 7:]
    assert torch.equal(drawn[0][0, len(reference_prompt()) :], new)
    assert answer.text == captioner._tokenizer.decode(new, skip_special_tokens=True)
    assert (answer.finish, answer.tokens) == ("length", 12)


def test_a_padded_batch_gives_what_single_clips_give(captioner: Pllava) -> None:
    questions = [
        Question(picture, system, user)
        for picture, system, user in zip(
            pixels(3), ["", "a man walks", "the sky"], ["look", "a dog barks near the river", "rain"], strict=True
        )
    ]
    decoding = Decoding(max_new_tokens=10)

    assert len({captioner.prompt_tokens(q.system, q.user) for q in questions}) == 3
    assert captioner.answer(questions, decoding) == [captioner.answer([q], decoding)[0] for q in questions]


def test_merging_gives_exactly_the_merged_tensors(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))

    found = dict(merged_tensors(files, 4.0, torch.float32))

    wanted = {library_name(key): tensor for key, tensor in plain_state().items()}
    assert found.keys() == wanted.keys()
    assert max(float((found[key] - wanted[key]).abs().max()) for key in wanted) < 1e-6


def test_alpha_is_four_and_counts(folder: Path) -> None:
    assert all(known_captioners()[name].lora_alpha == 4 for name in ("opensora", "pllava"))
    files = sorted(folder.glob("*.safetensors"))
    key = "model.language_model.layers.0.self_attn.q_proj.weight"
    four, trained = (dict(merged_tensors(files, alpha, torch.float32))[key] for alpha in (4.0, 32.0))

    assert float((four - trained).abs().max()) > 0.1


def test_a_merged_folder_loads_to_the_same_model(tmp_path: Path, captioner: Pllava) -> None:
    merged = settings(write_pllava(tmp_path / "merged", plain_state())).open("cpu")

    assert isinstance(merged, Pllava)
    for (name, found), wanted in zip(merged.network.named_parameters(), captioner.network.parameters(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6), name


def test_a_folder_that_transformers_saved_loads_to_the_same_model(tmp_path: Path, captioner: Pllava) -> None:
    captioner.network.save_pretrained(str(tmp_path))
    write_tokenizer(tmp_path)

    saved = settings(tmp_path).open("cpu")

    assert isinstance(saved, Pllava)
    for (name, found), wanted in zip(saved.network.named_parameters(), captioner.network.parameters(), strict=True):
        assert torch.equal(found, wanted), name


def test_bfloat16_weights_are_bfloat16(folder: Path) -> None:
    found = settings(folder, dtype="bfloat16").open("cpu")

    assert isinstance(found, Pllava)
    assert {tensor.dtype for tensor in found.network.parameters()} == {torch.bfloat16}
    assert found.pooled(pixels()).dtype == torch.bfloat16


def without(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    gone = next(key for key in sorted(state) if part in key)
    return {key: tensor for key, tensor in state.items() if key != gone}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(plain_state(), "norm.weight"), r"(?s)1 missing.*norm.weight"),
        (without(wrapped_state(), "lora_A"), r"update of .*q_proj.weight' lacks A"),
        ({**plain_state(), "image_newline": torch.zeros(48)}, r"(?s)1 surplus.*image_newline"),
        (
            {**plain_state(), "multi_modal_projector.linear_1.weight": stand_in("x", (48, 33))},
            r"found \(48, 33\), wanted \(48, 32\)",
        ),
        ({**plain_state(), "language_model.model.norm.weight": torch.full((48,), float("nan"))}, "NaN or infinity"),
    ],
)
def test_weights_of_another_model_stop_with_the_difference(
    state: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        settings(write_pllava(tmp_path, state)).open("cpu")


def test_another_llava_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is of model type 'llava_next', wanted 'llava'"):
        settings(write_pllava(tmp_path, model_type="llava_next")).open("cpu")


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="gives '<image>' the id 127, the model wants 126"):
        settings(write_pllava(tmp_path, image_token_index=126)).open("cpu")


def test_a_sentencepiece_model_alone_tokenizes_like_llama(tmp_path: Path) -> None:
    write_sentencepiece(write_pllava(tmp_path))
    found = settings(tmp_path).open("cpu")
    assert isinstance(found, Pllava)

    words = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    ids = found.prompt_ids("the man walks", "a dog")
    place = ids.index(127)
    assert ids[:place] == [1, *words.encode("the man walks USER:")]
    assert ids[place : place + VISUAL] == [127] * VISUAL
    assert ids[place + VISUAL :] == words.encode("a dog ASSISTANT:")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_pllava(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(WeightsError, match=r"holds no model-00002-of-00003\.safetensors"):
        settings(tmp_path).open("cpu")


def test_a_folder_that_is_not_there_and_no_hub_id_is_refused() -> None:
    with pytest.raises(WeightsError, match="no such folder, and not a hub id"):
        settings(Path("/nowhere/at/all")).open("cpu")


def test_the_provenance_changes_with_the_weights_and_not_with_the_folder(folder: Path, tmp_path: Path) -> None:
    same, other = write_pllava(tmp_path / "same"), write_pllava(tmp_path / "other")
    write_shards(other, {key: tensor + 0.001 for key, tensor in wrapped_state().items()})

    first = settings(folder).provenance()

    assert settings(same).provenance() == first
    assert settings(other).provenance()["model"] != first["model"]
    for changes in ({"frames": 2}, {"lora_alpha": 32.0}, {"prompt": "short"}, {"decoding": Decoding(max_new_tokens=8)}):
        assert settings(folder, **changes).provenance() != first


def test_frames_become_clip_s_pixels_whatever_their_size(captioner: Pllava) -> None:
    wide = np.zeros((4, 20, 60, 3), np.uint8)
    wide[:, :, 20:40] = 255  # the centre, which is what is kept

    found = captioner.prepare(wide)

    white = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert isinstance(captioner, Captioner)
    assert found.shape == (4, 3, 56, 56)
    assert torch.allclose(found[:, :, :, 20:36].mean(dim=(0, 2, 3)), white, atol=1e-3)


def test_special_tokens_in_a_label_are_removed(captioner: Pllava) -> None:
    plain = captioner.prompt_ids("", "a dog")

    assert captioner.prompt_ids("", "a <image> </s> dog") == plain
    assert plain.count(127) == VISUAL


def test_a_prompt_too_long_for_the_model_is_refused(captioner: Pllava) -> None:
    with pytest.raises(ConfigError, match="do not fit into the 512"):
        captioner.answer([Question(pixels()[0], "", "dog")], Decoding(max_new_tokens=500))


def test_frames_are_taken_from_segment_centres() -> None:
    assert segment_centres(68, 4) == [8, 25, 42, 58]
    assert segment_centres(1, 4) == [0, 0, 0, 0]
    assert segment_centres(2, 4) == [0, 0, 0, 1]
    assert segment_centres(34, 16) == sorted(segment_centres(34, 16))
    assert max(segment_centres(16, 16)) <= 15
