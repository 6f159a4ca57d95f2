"""Published weights under our names: which of their tensors each of ours comes from, and which start fresh.

    STDiT3      our names (OpenSora-STDiT-v3)
    PixArt      `.pth` of PixArt-alpha, -delta, -Sigma: our names with `blocks.` for `spatial_blocks.`
    diffusers   folders of PixArtTransformer2DModel: other names, queries, keys and values apart

Temporal blocks, which an image model does not have, start as the identity, and the frame rate adds nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from uniform.errors import WeightsError

LISTED = 8
"""Keys that an error lists; the rest is counted."""


class Origin(StrEnum):
    """Whose names a state dict carries."""

    UNIFORM = "UniForm"
    STDIT3 = "STDiT3"
    PIXART = "PixArt (.pth)"
    DIFFUSERS = "PixArt (diffusers)"


_FRESH_IN_UNIFORM = ("task_embedder.", "audio_embedder.", "audio_final.")
_FRESH = {
    Origin.UNIFORM: (),
    Origin.STDIT3: _FRESH_IN_UNIFORM,
    Origin.PIXART: ("temporal_blocks.", "fps_embedder.", "rope.", "q_norm", "k_norm", *_FRESH_IN_UNIFORM),
    Origin.DIFFUSERS: (
        *("temporal_blocks.", "fps_embedder.", "rope.", "q_norm", "k_norm", *_FRESH_IN_UNIFORM),
        "y_embedder.y_embedding",  # the published files carry the null caption; what today's diffusers saves does not
    ),
}
"""Parts of our names that a source may lack."""
_UNUSED = {
    Origin.UNIFORM: (),
    Origin.STDIT3: (),
    Origin.PIXART: ("pos_embed", "csize_embedder.", "ar_embedder."),
    Origin.DIFFUSERS: (
        "pos_embed.pos_embed",
        "adaln_single.emb.resolution_embedder.",
        "adaln_single.emb.aspect_ratio_embedder.",
    ),
}
"""Prefixes of their names that are not used: the position code is computed, image sizes are no input."""

_DIFFUSERS_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder": "caption_projection",  # of y_embedding, the null caption
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
}
_DIFFUSERS_BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}


@dataclass(frozen=True)
class Report:
    """What an initialisation did, tensor by tensor."""

    origin: Origin
    taken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Our key to their keys, stacked in this order."""
    fresh: list[str] = field(default_factory=list)
    """Our keys that keep their random or neutral start."""
    unused: list[str] = field(default_factory=list)
    """Their keys that have no place here."""
    notes: list[str] = field(default_factory=list)
    """What was cut, lengthened, or is not the source's function."""

    def __str__(self) -> str:
        lines = [
            f"{self.origin}: {len(self.taken)} tensors taken, {len(self.fresh)} fresh, {len(self.unused)} not used"
        ]
        for what, keys in (("taken", list(self.taken)), ("fresh", self.fresh), ("not used", self.unused)):
            lines += [f"  {what}: {name} ({count} tensors)" for name, count in _by_part(keys).items()]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def recognise(keys: Iterable[str]) -> Origin:
    """Whose state dict has these keys. Raises: WeightsError where it is none that we know."""
    known = set(keys)
    if "task_embedder.weight" in known:
        return Origin.UNIFORM
    if "spatial_blocks.0.scale_shift_table" in known:
        return Origin.STDIT3
    if "blocks.0.cross_attn.kv_linear.weight" in known:
        return Origin.PIXART
    if "transformer_blocks.0.scale_shift_table" in known:
        return Origin.DIFFUSERS
    raise WeightsError(
        f"weights of an unknown network ({len(known)} tensors: {_some(sorted(known))}). Known are: {', '.join(Origin)}."
    )


def convert(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], *, copy_side: bool
) -> tuple[dict[str, Tensor], Report]:
    """Their tensors as ours.

    Args:
        theirs: a published state dict.
        ours: the fresh network's state dict; only names and shapes are read.
        copy_side: start the audio's own embedder and head as copies of the video's (layout grid, share split).
    Returns: the tensors that come from `theirs`, and the report.
    Raises: WeightsError where a tensor of theirs is missing, has another shape, or is none that we expect.
    """
    report = Report(recognise(theirs))
    origin = report.origin
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    shapes: list[str] = []
    channels = ours["x_embedder.proj.weight"].shape[1]
    for key, target in ours.items():
        sources = _sources(_without_side(key) if copy_side and key not in theirs else key, origin)
        found = [theirs[source] for source in sources if source in theirs]
        if len(found) < len(sources):
            is_new = any(part in key for part in _FRESH[origin])
            (report.fresh if is_new else missing).append(key)
            continue
        value = _fit(key, torch.cat(found), target, channels, report.notes)
        if value.shape != target.shape:
            shapes.append(f"{key} {tuple(value.shape)}, wanted {tuple(target.shape)}")
            continue
        state[key] = value
        report.taken[key] = sources
    used = {source for sources in report.taken.values() for source in sources}
    left = [key for key in theirs if key not in used and not shapes]
    report.unused.extend(key for key in left if key.startswith(_UNUSED[origin]))
    unknown = [key for key in left if not key.startswith(_UNUSED[origin])]
    _refuse(origin, missing, shapes, unknown)
    return state, report


def _sources(key: str, origin: Origin) -> tuple[str, ...]:
    """Their keys for one of ours."""
    if origin in (Origin.UNIFORM, Origin.STDIT3):
        return (key,)
    if origin is Origin.PIXART:
        return (key.replace("spatial_blocks.", "blocks.", 1),)
    if key == "final_layer.scale_shift_table":
        return ("scale_shift_table",)
    module, _, kind = key.rpartition(".")
    if module in _DIFFUSERS_TOP:
        return (f"{_DIFFUSERS_TOP[module]}.{kind}",)
    block = re.fullmatch(r"spatial_blocks\.(\d+)(?:\.(.+))?", module)
    if block is None:
        return (key,)
    parts = _DIFFUSERS_BLOCK.get(block[2] or "", (block[2],))
    return tuple(".".join(filter(None, ("transformer_blocks", block[1], part, kind))) for part in parts)


def _fit(key: str, value: Tensor, target: Tensor, channels: int, notes: list[str]) -> Tensor:
    """Their tensor in our shape where the difference is one that we understand; as it is otherwise."""
    if key.endswith("embedder.proj.weight") and value.dim() == 4:
        return value.unsqueeze(2)  # an image's patch kernel has no time axis
    if key == "y_embedder.y_embedding" and value.shape[0] != target.shape[0]:
        notes.append(f"null caption: {value.shape[0]} rows brought to {target.shape[0]}")
        more = value[-1:].expand(max(target.shape[0] - value.shape[0], 0), -1)
        return torch.cat([value, more])[: target.shape[0]]
    if ".linear." in key and value.shape[0] == 2 * target.shape[0]:
        notes.append(f"{key}: the variance's half left out")
        return torch.unflatten(value, 0, (-1, 2 * channels))[:, :channels].flatten(0, 1)  # channel is fastest
    return value


def _without_side(key: str) -> str:
    return key.replace("audio_embedder.", "x_embedder.").replace("audio_final.", "final_layer.")


def _refuse(origin: Origin, missing: list[str], shapes: list[str], unknown: list[str]) -> None:
    if not (missing or shapes or unknown):
        return
    lines = [f"these {origin} weights do not fit the network:"]
    lines += [f"  {len(missing)} tensors are missing: {_some(missing)}"] if missing else []
    lines += [f"  {len(shapes)} tensors have another shape: {_some(shapes)}"] if shapes else []
    lines += [f"  {len(unknown)} tensors are none that we expect: {_some(unknown)}"] if unknown else []
    raise WeightsError("\n".join(lines) + "\nChoose the [model] size, layout and qk_norm of these weights, or others.")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")


def _by_part(keys: list[str]) -> dict[str, int]:
    """Keys counted by their first name, block norms apart."""
    counts: dict[str, int] = {}
    for key in keys:
        name = f"{key.split('.')[0]}.*.attn.{{q,k}}_norm" if "_norm." in key else key.split(".")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts
