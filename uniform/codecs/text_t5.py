"""The text codec of the paper's backbone: the encoder half of T5 v1.1 (flan variants too), frozen.

A caption is cleaned, cut into at most 300 tokens, and encoded with its padding masked; the features have the caption's
real length. Captions are sorted by length and run in batches of one shape per length class, so that the features of a
caption do not depend on the batch.

Source: Open-Sora 1.2 (T5 v1.1 XXL, 300 tokens, bfloat16); docs/paper_map.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniform.codecs.base import CodecCard
from uniform.codecs.caption_cleaning import CLEANING_VERSION, clean_caption
from uniform.codecs.catalogue import published
from uniform.codecs.device import pick_device, pick_dtype
from uniform.codecs.hub import open_source
from uniform.codecs.t5_files import build_network, encoder_half, needed_files, open_tokenizer, tied
from uniform.codecs.weights import files_sha256, load_strict, read_shapes, read_state, weights_sha256
from uniform.errors import ConfigError, WeightsError
from uniform.spec import Spec

__all__ = ["T5Codec", "needed_files", "open_codec"]

CODE_VERSION = 1
MAX_TOKENS = 300
"""Open-Sora 1.2 and PixArt-Sigma; PixArt-alpha had 120."""
LENGTH_STEP = 16
"""Captions are padded to a multiple of it and run only with others of the same padded length."""
NULL_KEY = "y_embedder.y_embedding"
"""Key of the null caption in PixArt's checkpoints."""

_CPU_BATCH, _GPU_BATCH = 4, 32


@dataclass(frozen=True)
class Tokens:
    """Token ids of a caption, and its index in the list."""

    place: int
    ids: list[int]

    @property
    def padded(self) -> int:
        """Padded length of the caption."""
        return -(-len(self.ids) // LENGTH_STEP) * LENGTH_STEP


class T5Codec:
    """Captions to token features. The weights are read at the first use, their layout is checked at once.

    Args:
        network: transformers' T5EncoderModel on the meta device.
        tokenizer: its tokenizer.
        files: its weight files, already checked against its layout.
        null_features: (tokens, width) of the null caption; None encodes the empty caption.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        files: list[Path],
        card: CodecCard,
        *,
        null_features: Tensor | None,
        max_tokens: int,
        cleaned: bool,
        device: torch.device,
        dtype: torch.dtype,
        batch: int,
    ) -> None:
        self.card, self.max_tokens, self.width = card, max_tokens, int(network.config.d_model)
        self._network, self._tokenizer, self._files, self._loaded = network, tokenizer, files, False
        self._null_features, self._cleaned = null_features, cleaned
        self._device, self._dtype, self._batch = device, dtype, batch

    @property
    def network(self) -> Any:
        """The encoder with its weights. Raises WeightsError where they are damaged."""
        if not self._loaded:
            state: dict[str, Tensor] = {}
            for file in self._files:  # cast tensor by tensor: XXL in float32 is 19 GB
                state |= {key: tensor.to(self._dtype) for key, tensor in encoder_half(read_state(file)).items()}
            load_strict(self._network, tied(state), f"{self.card.name}: {self._files[0]}", self._dtype)
            self._network.tie_weights()
            self._network.requires_grad_(False).eval().to(self._device)
            self._loaded = True
        return self._network

    def encode(self, captions: list[str]) -> list[Tensor]:
        """One float32 (tokens, width) per caption, 1 to `max_tokens` tokens, the end sign among them; never padded."""
        features: list[Tensor | None] = [None] * len(captions)
        tokens = [Tokens(place, self._ids(caption)) for place, caption in enumerate(captions)]
        for batch in _batches(tokens, self._batch):
            for caption, encoded in zip(batch, self._run(batch), strict=True):
                features[caption.place] = encoded[: len(caption.ids)].clone()
        return [encoded for encoded in features if encoded is not None]

    def count_tokens(self, caption: str) -> int:
        """Tokens of the caption before it is cut."""
        return len(self._tokenizer(self._text(caption), truncation=False, verbose=False)["input_ids"])

    def null_caption(self) -> Tensor:
        """Features of the null caption, float32 (tokens, width); the card's settings name their origin."""
        return self.encode([""])[0] if self._null_features is None else self._null_features

    def halve_batches(self) -> bool:
        """Halve the batch after running out of memory; False where it is a single caption already."""
        before, self._batch = self._batch, max(1, self._batch // 2)
        return self._batch < before

    def _text(self, caption: str) -> str:
        return clean_caption(caption) if self._cleaned else caption

    def _ids(self, caption: str) -> list[int]:
        return list(self._tokenizer(self._text(caption), truncation=True, max_length=self.max_tokens)["input_ids"])

    def _run(self, captions: list[Tokens]) -> Tensor:  # -> float32 (len(captions), padded, width)
        rows = captions + captions[-1:] * (self._batch - len(captions))
        ids = torch.full((self._batch, captions[0].padded), int(self._tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, caption in enumerate(rows):
            ids[row, : len(caption.ids)] = torch.tensor(caption.ids)
            mask[row, : len(caption.ids)] = 1
        with torch.no_grad():
            output = self.network(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        hidden: Tensor = output.last_hidden_state
        return hidden[: len(captions)].float()


def _batches(tokens: list[Tokens], size: int) -> Iterator[list[Tokens]]:
    """Captions sorted by length, in batches of at most `size` of one padded length."""
    for _, group in groupby(sorted(tokens, key=lambda caption: len(caption.ids)), key=lambda caption: caption.padded):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def open_codec(
    name: str,
    spec: Spec,
    *,
    weights: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "bfloat16",
    max_tokens: int = MAX_TOKENS,
    clean: bool = True,
    null_caption: str | None = None,
    batch: int | None = None,
) -> T5Codec:
    """The codec with published weights.

    Args:
        name: "t5-v1_1-xxl", or another T5 of the catalogue.
        spec: not used; captions have no geometry.
        weights: a folder as transformers writes it (whole or in shards, .safetensors or .bin), or a hub id.
        revision: of the hub; None is what `uniform weights fetch` recorded.
        device: auto, cpu, cuda, mps.
        dtype: bfloat16 as in Open-Sora, or float32.
        max_tokens: longer captions are cut.
        clean: clean captions first, as PixArt and Open-Sora do.
        null_caption: a PixArt checkpoint whose null caption is used; None is T5 of the empty caption.
        batch: captions that run together, always exactly so many. None: 4 on a CPU, 32 elsewhere.
    Raises: WeightsError for weights that are missing or of another model; ConfigError.
    """
    if max_tokens < 1:
        raise ConfigError(f"codec '{name}': max_tokens is {max_tokens}; wanted 1 or more")
    where, arithmetic = pick_device(device), pick_dtype(dtype)
    source = open_source(name, weights, revision)
    if source.weight_file is not None:
        raise WeightsError(f"{name}: {weights} is a file; give the folder that holds config, weights and tokenizer")
    config_path = source.file("config.json")
    source = source.at_commit_of(config_path)
    network, files = build_network(config_path, source, name)
    tokenizer, tokenizer_file = open_tokenizer(source, network.config.vocab_size, name)
    null_features, null_source = _null_features(null_caption, int(network.config.d_model))
    settings = {
        "max_tokens": max_tokens,
        "dtype": dtype,
        "cleaning": CLEANING_VERSION if clean else None,
        "null_caption": null_source,
    }
    card = _card(name, settings, [*files, tokenizer_file])
    return T5Codec(
        network,
        tokenizer,
        files,
        card,
        null_features=null_features,
        max_tokens=max_tokens,
        cleaned=clean,
        device=where,
        dtype=arithmetic,
        batch=batch or (_CPU_BATCH if where.type == "cpu" else _GPU_BATCH),
    )


def _card(name: str, settings: dict[str, Any], files: list[Path]) -> CodecCard:
    return CodecCard(
        name=name,
        code_version=CODE_VERSION,
        settings=settings,
        weights_sha256=files_sha256(files),
        licence=published(name).terms,
    )


def _null_features(checkpoint: str | None, width: int) -> tuple[Tensor | None, str]:
    if checkpoint is None:
        return None, "T5 of the empty caption"
    path = Path(checkpoint).expanduser()
    shapes = read_shapes(path)
    key = next((key for key in shapes if key.endswith(NULL_KEY)), None)
    if key is None or len(shapes[key]) != 2 or shapes[key][1] != width:
        found = "no such tensor" if key is None else f"shape {shapes[key]}"
        raise WeightsError(f"{path}: {NULL_KEY}: {found}; wanted (tokens, {width}). Give a PixArt checkpoint.")
    return read_state(path, (key,))[key].float(), f"{NULL_KEY}, sha256 {weights_sha256(path)}"
