"""The paper's networks, small and with stand-in weights, through the very stage that the weight-free codecs use."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from pipelines.clip import Clip
from pipelines.codec_bench import generated_clip, run_bench
from pipelines.stage import Context
from pipelines.stages.encode_latents import Stage
from tests.standin import stand_in_state
from uniform.spec import Spec

DATA = Path(__file__).parents[1] / "data"
SMALL = Spec(name="small", height_px=16, width_px=40, duration_s=1)
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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("weights")
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
    return Stage(
        video="opensora-v1.2",
        audio="audioldm-s-full-v2",
        video_options={"weights": str(folder / "video")},
        audio_options={"weights": str(folder / "audio")},
        device="cpu",
        score_clips=1,
        min_psnr_db=0.0,  # stand-in weights do not bring a clip back
        max_mel_error=99.0,
    )


def _save(folder: Path, file: str, state: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    save_file(state, folder / f"{file}.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [generated_clip(number, SMALL) for number in range(4)]


def run(stage: Stage, clips: list[Clip]) -> list[tuple[bytes, bytes]]:
    found = list(stage.open(Context(spec=SMALL))(iter(clips)))
    assert [clip.verdict for clip in found] == [None] * len(clips)
    return [(clip["video.npy"], clip["audio.npy"]) for clip in found]


def changed(stage: Stage, **options: object) -> Stage:
    return Stage(**{**vars(stage), **options})  # type: ignore[arg-type]


def test_the_networks_fill_the_same_members(stage: Stage, clips: list[Clip]) -> None:
    (clip,) = stage.open(Context(spec=SMALL))(iter(clips[:1]))

    video, audio = (np.load(io.BytesIO(clip[name])) for name in ("video.npy", "audio.npy"))
    facts, told = json.loads(clip["json"]), stage.provenance(SMALL)
    assert (video.shape, audio.shape) == (SMALL.video_latent, SMALL.audio_latent)
    assert facts["codecs"] == {kind: told[kind]["fingerprint"] for kind in ("video", "audio")}
    assert facts["scores"]["psnr_db"] > 0
    assert told["video"]["weights_sha256"] != told["audio"]["weights_sha256"]


def test_a_clip_gives_the_same_bytes_alone_in_a_batch_and_in_another_order(stage: Stage, clips: list[Clip]) -> None:
    together = run(changed(stage, batch_clips=4), clips)

    assert [run(stage, [clip])[0] for clip in clips[:2]] == together[:2]
    assert run(changed(stage, batch_clips=3), clips[::-1]) == together[::-1]


def test_the_benchmark_compares_bfloat16_with_float32(stage: Stage) -> None:
    report = run_bench(changed(stage, batch_clips=1), SMALL, clips=1, compare_bf16=True)

    assert report.psnr_bf16_db is not None
    assert report.psnr_bf16_db > 20
