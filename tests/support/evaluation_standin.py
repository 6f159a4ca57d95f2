"""Stand-in checkpoints, sounds and frames of the evaluation references in tests/data/evaluation.

Each is a function of a name and a shape, exact on any machine: the reference outputs were computed by the original
networks with these weights on these inputs.
"""

import json
import math
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.paths import DATA
from tests.support.standin import stand_in, stand_in_input
from uniform.evaluation.extractors.catalogue import extractor_entry, weights_of
from uniform.evaluation.extractors.cnn14 import FRONT_ENDS

REFERENCES = DATA / "evaluation"
RELU_GAIN = math.sqrt(2.0)
"""Keeps the numbers of networks with ReLUs from dying out."""


def reference(name: str) -> dict[str, Tensor]:
    """The stored outputs of the original network."""
    return load_file(REFERENCES / f"eval_{name}.safetensors")


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of the published file."""
    shapes: dict[str, Any] = json.loads((REFERENCES / f"eval_{name}.keys.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def checkpoint(
    shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0, keep: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A whole checkpoint. `keep` holds the entries that are constants of the method; variances are positive."""
    kept = keep or {}
    made: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key in kept:
            made[key] = kept[key]
        elif key.endswith("num_batches_tracked"):
            made[key] = torch.zeros(shape, dtype=torch.long)
        elif key.endswith("running_var"):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
            made[key] = 1 + 0.2 * noise.abs()
        else:
            made[key] = stand_in(key, shape) * (gain if len(shape) > 1 else 1.0)
    return made


def sound(name: str, samples: int, rate_hz: int) -> Tensor:
    """Mono sound, float32 (samples,), in steps of 1 / 32768: bursts of noise every 0.4 s over two square tones."""
    at = torch.arange(samples)
    decay = 2.0 ** -((at % (rate_hz * 2 // 5)) // (rate_hz // 50)).float()
    seed = zlib.crc32(name.encode())
    low, high = (
        (at * 2 * hz // rate_hz % 2).float() * amplitude - amplitude / 2
        for hz, amplitude in ((110 + seed % 330, 1 / 8), (1500 + seed % 2500, 1 / 32))
    )
    # The tones are exact in float32, so they come first: a rounding elsewhere would move a sample by a step.
    total = stand_in_input(name, (samples,)) * decay / 8 + (low + high)
    return (total.clamp(-0.99, 0.99) * 32768).floor() / 32768


def moving_square(name: str, frames: int, height: int, width: int) -> Tensor:
    """uint8 (frames, height, width, 3): a bright square that bounces before patches that slide by 2 px a frame."""
    side = max(height // 3, 4)
    ground = _patches(f"{name}.ground", height, width, 8)
    square = (_patches(f"{name}.square", side, side, 4) // 2 + 120).clamp(0, 255)
    made = []
    for t in range(frames):
        frame = torch.roll(ground, 2 * t, 1).clone()
        fall = (5 * t) % (2 * (height - side))
        top, left = min(fall, 2 * (height - side) - fall), (3 * t) % (width - side)
        frame[top : top + side, left : left + side] = square
        for axis in (0, 1):
            frame = (torch.roll(frame, 1, axis) + 2 * frame + torch.roll(frame, -1, axis)) // 4
        made.append(frame.to(torch.uint8))
    return torch.stack(made)


def _patches(name: str, height: int, width: int, side: int) -> Tensor:
    grid = stand_in_input(name, (-(-height // side), -(-width // side), 3)) * 48 + 112
    colours = grid.clamp(0, 255).floor().long()
    return colours.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]


def assert_equals_original(found: Tensor, original: Tensor, share: float = 1e-4) -> None:
    """Fails where a number differs by more than `share` of the original's maximum."""
    assert found.shape == original.shape
    difference, limit = (found.double() - original.double()).abs().max(), share * original.double().abs().max()
    assert difference <= limit, f"differs by {difference:.3e}, at most {limit:.3e} is allowed"


def write_checkpoint(extractor: str, folder: Path) -> None:
    """The stand-in files of an extractor, under the names and in the layout of the published ones."""
    first, *others = (folder / file.name for file in weights_of(extractor_entry(extractor)).files)
    if extractor.startswith("cnn14"):
        state = checkpoint(published_shapes(extractor), RELU_GAIN, FRONT_ENDS[extractor].constants())
        sampler = {"indexes": np.arange(2_000_000), "pointer": np.int64(3)}  # as large as in the published file
        torch.save({"iteration": 600_000, "model": state, "sampler": sampler}, first)
    elif extractor == "c3d_tgan2":
        arrays = {key: tensor.numpy() for key, tensor in checkpoint(published_shapes("c3d")).items()}
        np.savez(first, **arrays)
        np.savez(others[0], mean=(stand_in_input("eval.c3d.mean", (1, 3, 16, 128, 171)) * 4 + 100).floor().numpy())
    elif extractor == "i3d_sgv":
        write_script(holder_of(checkpoint_i3d_tf()), torch.zeros(1), first)
    elif extractor == "vggish_pca8":
        write_checkpoint("vggish", folder)
        shapes = {"pproc.pca_eigen_vectors": (128, 128), "pproc.pca_means": (128, 1)}
        pca = checkpoint(shapes, RELU_GAIN)
        arrays = {key.removeprefix("pproc."): tensor.numpy() for key, tensor in pca.items()}
        torch.save(arrays, others[0], _use_new_zipfile_serialization=False)
    else:
        name = "i3d" if extractor.startswith("i3d") else extractor
        # The published files are of 2020 and earlier: the form that torch wrote before version 1.6.
        torch.save(
            checkpoint(published_shapes(name), RELU_GAIN), first, _use_new_zipfile_serialization=name != "vggish"
        )


def checkpoint_i3d_tf() -> dict[str, Tensor]:
    """The stand-in weights of I3D under the names of StyleGAN-V's TorchScript file; the order is the same."""
    values = checkpoint(published_shapes("i3d"), RELU_GAIN).values()
    return dict(zip(published_shapes("i3d_tf_names"), values, strict=True))


def holder_of(state: Mapping[str, Tensor]) -> nn.Module:
    """A module that holds the tensors of `state` at their dotted names, and adds 1."""
    root = _Holder()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        place: nn.Module = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, _Holder())
            place = place.get_submodule(part)
        place.register_buffer(leaf, tensor)
    return root


def write_script(module: nn.Module, example: Tensor, path: Path) -> None:
    """Trace a module into a TorchScript archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit warns about itself; such files exist all the same
        torch.jit.save(torch.jit.trace(module, example), path)


class _Holder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1
