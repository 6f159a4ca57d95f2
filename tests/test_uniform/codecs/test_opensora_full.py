"""The codecs at their published sizes, with stand-in weights: minutes on a CPU, so only `make test-slow` runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.paths import ROOT
from tests.support.standin import stand_in, stand_in_state
from uniform.codecs.video_opensora import open_codec
from uniform.errors import WeightsError
from uniform.spec import PAPER

CLIP = ROOT.parent / "shared" / "clips" / "r01_frog_cc0.mp4"
LAYOUT = ROOT / "tests" / "data" / "opensora_vae_full.keys.json"

pytestmark = pytest.mark.slow


def test_a_file_in_the_published_layout_at_full_size_loads_strictly(tmp_path: Path) -> None:
    shapes = json.loads(LAYOUT.read_text())
    state = stand_in_state(shapes, {"scale": torch.full((1, 4, 1, 1, 1), 3.0)})
    path = tmp_path / "model.safetensors"
    save_file(state, path)

    codec = open_codec("opensora-v1.2", PAPER, weights=str(path), device="cpu")
    loaded = codec.vae.state_dict()

    assert len(loaded) == 517
    assert sum(tensor.numel() for tensor in loaded.values()) == 393_341_015
    for key in ("spatial_vae.module.decoder.conv_out.weight", "temporal_vae.decoder.conv_blocks.2.conv.weight"):
        assert torch.equal(loaded[key], stand_in(key, tuple(shapes[key])))

    del state["temporal_vae.decoder.norm1.bias"]
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"1 missing:\n  temporal_vae\.decoder\.norm1\.bias"):
        open_codec("opensora-v1.2", PAPER, weights=str(path), device="cpu")


def test_a_clip_passes_both_full_size_codecs_within_12_gb() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "full_size_codecs.py"), "--threads", "2", "--device", "cpu"]
    if CLIP.exists():
        command += ["--clip", str(CLIP)]

    result = subprocess.run(command, check=True, capture_output=True, text=True)

    card = json.loads(result.stdout.splitlines()[-1])
    assert tuple(card["shapes"]["video"]) == PAPER.video_latent
    assert tuple(card["shapes"]["audio"]) == PAPER.audio_latent
    assert card["peak_gb"] < 12
