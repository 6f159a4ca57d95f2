"""The Open-Sora VAE, small and with stand-in weights, as a folder of the hub."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in_state
from uniform.codecs import base
from uniform.codecs.base import open_video_codec
from uniform.spec import PAPER

HUB_ID = "hpcai-tech/OpenSora-VAE-v1.2"
SMALL = {
    "micro_frame_size": 17,
    "vae_2d": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
    "vae_temporal": {"filters": 32, "num_res_blocks": 1},
}


def small_checkpoint() -> dict[str, Tensor]:
    """Stand-in weights by key."""
    shapes = json.loads((DATA / "opensora_vae_small.keys.json").read_text())
    return stand_in_state(shapes, {"scale": torch.full((1, 4, 1, 1, 1), 2.0)})


def weights_folder(path: Path, state: dict[str, Tensor]) -> Path:
    """Write `state` and its sizes as the hub would hold them."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(SMALL))
    return path


def open_codec(path: Path | str) -> base.VideoCodec:
    """The video codec with the weights at `path`, or of that hub id."""
    return open_video_codec("opensora-v1.2", PAPER, weights=str(path), device="cpu")
