"""The files of a T5: config, weights whole or in shards, tokenizer; of published checkpoints only the encoder half."""

import json
from pathlib import Path
from typing import Any

import torch

from uniform.codecs.hub import Source
from uniform.codecs.weights import Shapes, read_json, read_shapes, require_layout
from uniform.errors import WeightsError

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OTHER_HALF = ("decoder.", "lm_head.")
_TIED = ("shared.weight", "encoder.embed_tokens.weight")


def needed_files(source: Source) -> list[Path]:
    """Config, weights (with their index, if they are in shards) and tokenizer; downloaded where missing."""
    config_path = source.file("config.json")
    source = source.at_commit_of(config_path)
    main, tokenizer = source.file(*_WEIGHT_FILES), _tokenizer_files(source)
    return list(dict.fromkeys([config_path, main, *weight_files(source), *tokenizer]))


def build_network(config_path: Path, source: Source, name: str) -> tuple[Any, list[Path]]:
    """The encoder without weights, and its weight files, whose layout is checked."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import T5Config, T5EncoderModel

    values = read_json(config_path)
    if values.get("model_type") != "t5":
        raise WeightsError(f"{name}: {config_path} is of model type '{values.get('model_type')}', wanted 't5'")
    try:
        config = T5Config.from_dict(values)
        with torch.device("meta"):
            network = T5EncoderModel(config)
    except (TypeError, ValueError, RuntimeError, KeyError, StrictDataclassError) as error:
        raise WeightsError(f"{name}: {config_path} is not a T5's config ({error}). Fetch it again.") from error
    files = weight_files(source)
    shapes: Shapes = {}
    for file in files:
        shapes |= encoder_half(read_shapes(file))
    layout = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    require_layout(tied(shapes), layout, f"{name}: {files[0]}")
    return network, files


def weight_files(source: Source) -> list[Path]:
    """The file that holds the weights, or its shards in order."""
    main = source.file(*_WEIGHT_FILES)
    if main.suffix != ".json":
        return [main]
    try:
        names = sorted(set(json.loads(main.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{main}: not an index of weight files ({error!r}). Fetch it again.") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(f"{main}: names files outside its folder, or none: {names[:3]}. Fetch it again.")
    return [source.file(name) for name in names]


def encoder_half(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries without the decoder: published checkpoints hold both halves."""
    return {key: value for key, value in entries.items() if not key.startswith(_OTHER_HALF)}


def tied(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries with the token table under both of its names; checkpoints hold it under one or both."""
    table = next((entries[key] for key in _TIED if key in entries), None)
    return entries if table is None else {**entries, **dict.fromkeys(_TIED, table)}


def _tokenizer_files(source: Source) -> list[Path]:
    optional = [source.find(name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    return [source.file("tokenizer.json", "spiece.model"), *(path for path in optional if path is not None)]


def open_tokenizer(source: Source, vocabulary: int, name: str) -> tuple[Any, Path]:
    """The tokenizer of a network with `vocabulary` tokens, and the file it comes from."""
    from transformers import T5Tokenizer

    file = _tokenizer_files(source)[0]
    try:
        tokenizer = T5Tokenizer.from_pretrained(str(file.parent), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{name}: {file} is not a T5 tokenizer ({error}). Fetch it again.") from error
    if len(tokenizer) > vocabulary:
        raise WeightsError(
            f"{name}: {file} has {len(tokenizer)} tokens, the network {vocabulary}: it belongs to another model."
        )
    return tokenizer, file
