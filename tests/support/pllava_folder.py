"""A tiny PLLaVA in the folder layout of the published ones: config, shards with index, tokenizer."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.support.paths import DATA
from tests.support.standin import stand_in, stand_in_state

SIZES: dict[str, Any] = json.loads((DATA / "pllava_small.json").read_text())
RANK = 8
WORDS = re.findall(
    r"\w+",
    """
    a the man woman dog cat bird car boat train river sea rain street room table guitar drum ball fence tree sky
    light runs walks plays sings barks flies falls rolls stands sits looks opens turns shines red blue green white
    black old young small large wet bright dark near far on in under over beside behind with and while slowly
    quickly loudly softly left right up down city forest field stage kitchen window camera people child hand face
    water fire wind
    """,
)


def plain_state() -> dict[str, Tensor]:
    """The weights of the reference outputs, under the names of a merged folder."""
    shapes = json.loads((DATA / "pllava_small.keys.json").read_text())
    return stand_in_state({key: tuple(shape) for key, shape in shapes.items()})


def wrapped_state(alpha: float = 4.0) -> dict[str, Tensor]:
    """The same model as PEFT wraps it: merged with `alpha`, it is `plain_state`."""
    state: dict[str, Tensor] = {}
    for key, tensor in plain_state().items():
        wrapped = key.replace("language_model.", "language_model.base_model.model.", 1)
        if not key.endswith(("q_proj.weight", "v_proj.weight")) or not key.startswith("language_model."):
            state[wrapped if key.startswith("language_model.") else key] = tensor
            continue
        place = wrapped.removesuffix(".weight")
        down = stand_in(f"{place}.lora_A", (RANK, tensor.shape[1]))
        up = stand_in(f"{place}.lora_B", (tensor.shape[0], RANK))
        state[f"{place}.base_layer.weight"] = tensor - alpha / RANK * (up @ down)
        state[f"{place}.lora_A.default.weight"] = down
        state[f"{place}.lora_B.default.weight"] = up
    return state


def write_shards(folder: Path, state: Mapping[str, Tensor], shards: int = 3) -> None:
    """Write the weights in several files with an index; neighbouring tensors are in different files."""
    keys = sorted(state)
    names = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    places = {key: names[number % shards] for number, key in enumerate(keys)}
    for name in names:
        save_file({key: state[key].contiguous() for key in keys if places[key] == name}, folder / name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_pllava(folder: Path, state: Mapping[str, Tensor] | None = None, **config: Any) -> Path:
    """Write the complete folder, by default with the wrapped weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, wrapped_state() if state is None else state)
    vision = {"model_type": "clip_vision_model", **SIZES["vision"]}
    text = {"model_type": "llama", **SIZES["text"]}
    kept = ("image_token_index", "pooling_shape", "frame_shape", "num_frames", "vision_feature_layer")
    values = {
        "model_type": "llava",
        "vision_config": vision,
        "text_config": text,
        "vision_feature_select_strategy": "default",
        "pad_token_id": 0,
        **{name: SIZES[name] for name in kept},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(values))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    """Write a tokenizer with one token per word; `<image>` has the last id of the reference's vocabulary."""
    signs = ["<pad>", "<s>", "</s>", "<unk>", ".", ",", ":", "USER", "ASSISTANT"]
    names = [*signs, *words]
    names += [
        f"thing{chr(97 + number // 26)}{chr(97 + number % 26)}"
        for number in range(SIZES["image_token_index"] - len(names))
    ]
    vocabulary = {name: number for number, name in enumerate([*names[: SIZES["image_token_index"]], "<image>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    ).save_pretrained(str(folder))


def write_sentencepiece(folder: Path) -> None:
    """Replace the tokenizer by the older form, a SentencePiece model with `<image>` added."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    model, image = io.BytesIO(), SIZES["image_token_index"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join([*WORDS, "USER: ASSISTANT:"])] * 20),
        model_writer=model,
        vocab_size=image,
        model_type="bpe",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    signs = {"0": "<unk>", "1": "<s>", "2": "</s>", str(image): "<image>"}
    kind = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    values = {
        "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": {number: {"content": sign, **kind} for number, sign in signs.items()},
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def pixels(clips: int = 1) -> Tensor:
    """The reference's frames, (clips, 4, 3, 56, 56); further clips have others."""
    from tests.support.standin import stand_in_input

    names = ["pllava.pixels", *(f"pllava.pixels{number}" for number in range(1, clips))]
    return torch.stack([stand_in_input(name, (4, 3, 56, 56)) for name in names])
