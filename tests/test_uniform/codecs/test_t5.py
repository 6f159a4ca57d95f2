"""The T5 text codec, small, with stand-in weights in the published folder layouts."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from tests.support.standin import stand_in, stand_in_state
from uniform.codecs.base import TextCodec, open_text_codec
from uniform.codecs.text_t5 import T5Codec, open_codec
from uniform.errors import ConfigError, WeightsError
from uniform.spec import PAPER

SIZES = {
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}
SENTENCES = (
    "the dog barks at the gate",
    "a bird sings in the tree",
    "rain falls on a tin roof",
    "an engine starts",
    "waves crash on the rocks",
    "the crowd cheers loudly",
)
CAPTIONS = [
    "The dog barks.",
    "rain",
    "",
    "a bird sings in the tree while rain falls on a tin roof and the crowd cheers loudly at the gate",
    "waves crash",
    "an engine starts and the dog barks at the gate, the dog barks at the tree",
    "a bird sings",
]


def _state() -> dict[str, Tensor]:
    with torch.device("meta"):
        network = T5EncoderModel(T5Config(**SIZES))
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    del shapes["encoder.embed_tokens.weight"]  # published files hold the token table once
    return stand_in_state(shapes)


def _write_all_but_weights(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "config.json").write_text(json.dumps(SIZES))
    tokens = {"extra_ids": 4, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    _write_all_but_weights(folder)
    save_file(_state(), folder / "model.safetensors")
    return folder


def _open(folder: Path, **options: object) -> T5Codec:
    settings = {"device": "cpu", "dtype": "float32", **options}
    return open_codec("t5-v1_1-xxl", PAPER, weights=str(folder), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def codec(folder: Path) -> T5Codec:
    return _open(folder)


def test_features_equal_the_library_padded_to_full_length_and_masked(codec: T5Codec, folder: Path) -> None:
    from transformers import T5Tokenizer

    network = T5EncoderModel(T5Config(**SIZES)).eval()
    network.load_state_dict({**_state(), "encoder.embed_tokens.weight": _state()["shared.weight"]})
    tokenizer = T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
    caption = "the dog barks"
    inputs = tokenizer(caption, padding="max_length", max_length=300, truncation=True, return_tensors="pt")

    with torch.no_grad():
        hidden = network(**inputs).last_hidden_state[0]

    length = int(inputs["attention_mask"].sum())
    found = codec.encode([caption])[0]
    assert found.shape == (length, 32)
    assert float((found - hidden[:length]).abs().max()) <= 2e-4 * float(hidden.abs().max())


def test_codec_is_a_text_codec_and_gives_each_caption_at_its_own_length(codec: T5Codec) -> None:
    features = codec.encode(CAPTIONS)

    assert isinstance(codec, TextCodec)
    assert codec.width == 32
    assert [len(encoded) for encoded in features] == [codec.count_tokens(caption) for caption in CAPTIONS]
    assert len(features[2]) == 1  # the end sign is always there
    assert all(encoded.dtype == torch.float32 for encoded in features)


def test_bytes_do_not_depend_on_batch_neighbours_or_order(codec: T5Codec) -> None:
    together = codec.encode(CAPTIONS)
    turned = codec.encode(CAPTIONS[::-1])[::-1]
    alone = [codec.encode([caption])[0] for caption in CAPTIONS]

    for first, second, third in zip(together, turned, alone, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def test_long_captions_are_cut_and_still_end_with_the_end_sign(folder: Path, codec: T5Codec) -> None:
    short = _open(folder, max_tokens=8)
    long = CAPTIONS[3]

    assert len(short.encode([long])[0]) == 8
    assert short.count_tokens(long) == codec.count_tokens(long) > 8
    assert short.card.fingerprint != codec.card.fingerprint


def test_bfloat16_is_the_default_and_in_the_card(folder: Path, codec: T5Codec) -> None:
    rough = open_codec("flan-t5-base", PAPER, weights=str(folder), device="cpu")

    exact, rounded = codec.encode(CAPTIONS[:1])[0], rough.encode(CAPTIONS[:1])[0]

    assert rough.card.settings["dtype"] == "bfloat16"
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert 0 < float((exact - rounded).abs().max()) < 0.1 * float(exact.abs().max())


def test_captions_are_cleaned_by_default(folder: Path, codec: T5Codec) -> None:
    shouted = "THE DOG BARKS http://example.com/dog"
    raw = _open(folder, clean=False)

    assert torch.equal(codec.encode([shouted])[0], codec.encode(["the dog barks"])[0])
    assert raw.count_tokens(shouted) > codec.count_tokens(shouted)
    assert raw.card.fingerprint != codec.card.fingerprint


def test_shards_pickles_and_both_halves_load_as_the_encoder_alone_does(codec: T5Codec, tmp_path: Path) -> None:
    state = _state()
    names = sorted(state)
    _write_all_but_weights(tmp_path)
    torch.save({key: state[key] for key in names[:9]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    rest = {key: state[key] for key in names[9:]}
    decoder = {"decoder.final_layer_norm.weight": torch.ones(32), "lm_head.weight": torch.zeros(64, 32)}
    torch.save({**rest, **decoder}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {key: f"pytorch_model-0000{1 if key in names[:9] else 2}-of-00002.bin" for key in (*names, *decoder)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    assert torch.equal(_open(tmp_path).encode(["rain"])[0], codec.encode(["rain"])[0])


def test_null_caption_is_t5_of_the_empty_caption_or_pixarts_buffer_as_the_card_says(
    folder: Path, codec: T5Codec, tmp_path: Path
) -> None:
    buffer = stand_in("y_embedding", (12, 32))
    torch.save({"state_dict": {"y_embedder.y_embedding": buffer}}, tmp_path / "pixart.pth")
    pixart = _open(folder, null_caption=str(tmp_path / "pixart.pth"))

    assert torch.equal(codec.null_caption(), codec.encode([""])[0])
    assert "empty caption" in codec.card.settings["null_caption"]
    assert torch.equal(pixart.null_caption(), buffer)
    assert "y_embedder.y_embedding" in pixart.card.settings["null_caption"]


def test_a_null_caption_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"y_embedder.y_embedding": torch.zeros(12, 31)}, tmp_path / "pixart.safetensors")
    with pytest.raises(WeightsError, match=r"wanted \(tokens, 32\)"):
        _open(folder, null_caption=str(tmp_path / "pixart.safetensors"))


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    state = _state()
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]
    _write_all_but_weights(tmp_path)
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match=r"1 missing:\n  encoder\.block\.1\.layer\.0\.SelfAttention\.q\.weight"):
        _open(tmp_path)


def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    _write_all_but_weights(tmp_path / "model")
    save_file(_state(), tmp_path / "outside.safetensors")
    index = {"weight_map": {"shared.weight": "../outside.safetensors"}}
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(WeightsError, match="outside its folder"):
        _open(tmp_path / "model")


def test_another_models_config_is_refused(folder: Path, tmp_path: Path) -> None:
    _write_all_but_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "bert"}))
    with pytest.raises(WeightsError, match="model type 'bert', wanted 't5'"):
        open_text_codec("t5-v1_1-base", PAPER, weights=str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused(folder: Path, tmp_path: Path) -> None:
    _write_all_but_weights(tmp_path)
    save_file(load_file(folder / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 40}))
    with pytest.raises(WeightsError, match="tokens, the network 64"):
        _open(tmp_path)


def test_no_tokens_at_all_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        _open(folder, max_tokens=0)
