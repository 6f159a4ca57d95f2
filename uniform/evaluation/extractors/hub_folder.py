"""Folders in the layout of the Hugging Face hub: settings as JSON, weights read by our own strict reader, tokenizers.

The classes come from transformers, the numbers never: its own loading fetches, converts and fills in silently.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import PublishedFile
from uniform.evaluation.extractors.contract import WeightsFile
from uniform.evaluation.extractors.tensor_files import Layout, read_tensors

_MOST_BYTES = 1_000_000


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object of at most 1 MB. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        settings = json.loads(content) if len(content) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}). Fetch the model's folder again.") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: wanted a JSON object of at most 1 MB. Fetch the model's folder again.")
    return settings


def load_weights(
    model: nn.Module, path: Path, published: PublishedFile | None = None, rename: Callable[[str], str] = str
) -> WeightsFile:
    """Give `model`, built on the CPU, exactly the file's numbers as float32, and put it into use.

    A tensor that stands in the model under several names must stand in the file under the first; under the others it
    may. Whole numbers (positions, counters) are computed by the model and not read.
    Raises: WeightsError.
    """
    state: Mapping[str, Tensor] = model.state_dict()
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(tensor.data_ptr() or id(tensor), name)
    wanted = {name for name in first.values() if state[name].is_floating_point()}
    layout = Layout(
        shapes={name: tuple(state[name].shape) for name in state if name in wanted},
        unused={name: tuple(state[name].shape) for name in state if name not in wanted},
        optional=lambda name: False,
        rename=rename,
    )
    tensors, record = read_tensors(path, layout, published)
    with torch.no_grad():
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    model.eval().requires_grad_(False)
    return record


def tokens(folder: Path, texts: Sequence[str], most: int) -> dict[str, Tensor]:
    """Token numbers and mask of `texts`, cut to `most` tokens and padded to the longest, by the folder's tokenizer.

    Raises: WeightsError where the folder has none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder}: no tokenizer can be opened there ({error}). Fetch the folder again.") from error
    made = tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
