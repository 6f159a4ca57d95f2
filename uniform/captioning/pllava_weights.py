"""Merge the published PEFT weights of PLLaVA in one pass over their files; merged weights pass unchanged.

The low-rank updates of the query and value layers are added with alpha 4 over rank 128, as every published script does;
training used alpha 32. Names become those of LLaVA in transformers. Source: magic-research/PLLaVA; docs/captions.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from uniform.codecs.weights import Shapes, each_tensor, read_shapes
from uniform.errors import WeightsError

_WRAPPED = re.compile(r"(?P<map>.+)\.(?P<part>base_layer\.weight|lora_[AB](\.default)?\.weight)")
_WRAPPER = ("language_model.base_model.model.", "language_model.")
_NAMES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),  # as transformers 5 saves it
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
"""Prefix of published names -> prefix in transformers."""
_BUFFERS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Tensors of old checkpoints that follow from the config."""


def library_name(key: str) -> str:
    """The name in transformers of the checkpoint's tensor `key`."""
    if key.startswith(_WRAPPER[0]):
        key = _WRAPPER[1] + key.removeprefix(_WRAPPER[0])
    for before, after in _NAMES:
        if key.startswith(before):
            return after + key.removeprefix(before)
    return key


def merged_shapes(files: Sequence[Path], where: str) -> Shapes:
    """Names and shapes after the merge, without reading values.

    Raises: WeightsError where an update lacks a part or does not fit its layer, or a tensor is in two files.
    """
    found: Shapes = {}
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for file in files:
        for key, shape in read_shapes(file).items():
            name, part = _split(key)
            if name is None:
                continue
            if part is not None:
                parts.setdefault(name, {})[part] = shape
            elif name in found:
                raise WeightsError(f"{where}: '{name}' is in two files; give a folder that holds one model")
            else:
                found[name] = shape
    for name, shapes in parts.items():
        if "base" not in shapes and name in found:
            shapes["base"] = found[name]  # older PEFT kept the name of the layer
        if missing := {"base", "A", "B"} - shapes.keys():
            raise WeightsError(f"{where}: the update of '{name}' lacks {', '.join(sorted(missing))}. Fetch it again.")
        rank = shapes["A"][0]
        if shapes["A"] != (rank, shapes["base"][1]) or shapes["B"] != (shapes["base"][0], rank):
            raise WeightsError(f"{where}: the update of '{name}' does not fit: {shapes}. Fetch it again.")
        found[name] = shapes["base"]
    return found


def merged_tensors(files: Sequence[Path], alpha: float, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors after the merge, W + alpha / rank * B A in float32, each once its parts are read.

    Args:
        files: the weight files, as `merged_shapes` accepted them.
        alpha: weight of the updates.
        dtype: of the result.
    """
    updated = {name for file in files for key in read_shapes(file) for name, part in [_split(key)] if part and name}
    waiting: dict[str, dict[str, Tensor]] = {}
    for file in files:
        for key, tensor in each_tensor(file):
            name, part = _split(key)
            if name is None:
                continue
            if name not in updated:
                yield name, tensor.to(dtype)
                continue
            parts = waiting.setdefault(name, {})
            parts[part or "base"] = tensor
            if len(parts) == 3:
                yield name, _merge(waiting.pop(name), alpha).to(dtype)
    assert not waiting, "merged_shapes found every part"


def _merge(parts: Mapping[str, Tensor], alpha: float) -> Tensor:
    rank = parts["A"].shape[0]
    return parts["base"].float() + (alpha / rank) * (parts["B"].float() @ parts["A"].float())


def _split(key: str) -> tuple[str | None, str | None]:
    """(Name of the merged tensor, its part: base, A, B, or None for a whole tensor); a buffer has no name."""
    if key.endswith(_BUFFERS):
        return None, None
    wrapped = _WRAPPED.fullmatch(key)
    if wrapped is None:
        return library_name(key).replace(".base_layer.bias", ".bias"), None
    part = wrapped["part"]
    name = library_name(f"{wrapped['map']}.weight")
    return name, "base" if part.startswith("base") else part[len("lora_")]
