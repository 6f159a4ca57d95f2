"""The networks of the paper, small and with stand-in weights, in folders with the layout of the real ones."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from tests.support.paths import DATA
from tests.support.standin import stand_in_state

VIDEO = {
    "micro_frame_size": 17,
    "vae_2d": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
    "vae_temporal": {"filters": 32, "num_res_blocks": 1},
}
AUDIO = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": 8,
    "scaling_factor": 0.9,
}
VOCODER = {
    "model_in_dim": 64,
    "sampling_rate": 16_000,
    "upsample_initial_channel": 32,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "normalize_before": False,
}


def write_small_networks(folder: Path) -> dict[str, Any]:
    """Write the weights. Returns the options of an encoding stage that uses them."""
    statistics = {name: torch.tensor([0.1, 0.2, 0.3, 1.0]).reshape(1, 4, 1, 1, 1) for name in ("shift", "scale")}
    shapes = json.loads((DATA / "opensora_vae_small.keys.json").read_text())
    _save(folder / "video", "model", stand_in_state(shapes, statistics), VIDEO)
    with torch.device("meta"):
        vae, vocoder = AutoencoderKL.from_config(AUDIO), SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER))
    for name, file, network, config in (
        ("vae", "diffusion_pytorch_model", vae, {"_class_name": "AutoencoderKL", **AUDIO}),
        ("vocoder", "model", vocoder, VOCODER),
    ):
        state = stand_in_state({key: tuple(value.shape) for key, value in network.state_dict().items()})
        _save(folder / "audio" / name, file, state, config)
    return {
        "video": "opensora-v1.2",
        "audio": "audioldm-s-full-v2",
        "video_options": {"weights": str(folder / "video")},
        "audio_options": {"weights": str(folder / "audio")},
        "device": "cpu",
    }


def _save(folder: Path, file: str, state: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    save_file(state, folder / f"{file}.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
