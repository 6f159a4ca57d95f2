"""Measure both codecs at their published sizes on one clip: seconds per step, peak memory.

    python benchmarks/full_size_codecs.py                       # noise
    python benchmarks/full_size_codecs.py --clip FILE --decode  # the first 4 s of a file, and back

The weights are random, with the published shapes and layouts, and are opened like the real ones: only time and memory
are meaningful. On one CPU core the video part takes several minutes.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from uniform.codecs.audio_audioldm import open_codec as open_audio
from uniform.codecs.opensora_vae import OpenSoraVae, VaeConfig
from uniform.codecs.posterior import split_moments
from uniform.codecs.video_opensora import open_codec as open_video
from uniform.media.sandbox import MediaSandbox
from uniform.spec import PAPER

T = TypeVar("T")
AUDIO_VAE = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "latent_channels": 8,
    "scaling_factor": 0.9392935633659363,
}
VOCODER = {
    "model_in_dim": 64,
    "sampling_rate": 16_000,
    "upsample_initial_channel": 1024,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "normalize_before": False,
}


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="any media file of 4 s or more")
    parser.add_argument("--decode", action="store_true", help="decode the latents too: twice the work")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    frames, waveform = _media(arguments.clip)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_weights(Path(folder))
        video = open_video("opensora-v1.2", PAPER, weights=folder, device=arguments.device, dtype=arguments.dtype)
        audio = open_audio("audioldm-s-full-v2", PAPER, weights=folder, device=arguments.device, dtype=arguments.dtype)
        vae = _timed(seconds, "load video weights", lambda: video.vae)
        _timed(seconds, "load audio weights", lambda: audio.vae)
        spatial = _timed(seconds, "spatial encode", lambda: vae.spatial_encode(frames[0]))
        moments = _timed(seconds, "temporal encode", lambda: vae.temporal_moments(spatial.transpose(0, 1)[None]))
        pictures = split_moments(moments)[0]
        sound = _timed(seconds, "audio encode", lambda: audio.encode(waveform))
        shapes = {"video": list(pictures.shape[1:]), "audio": list(sound.shape[1:])}
        if arguments.decode:
            shapes["frames"] = list(
                _timed(seconds, "video decode", lambda: video.decode(pictures, frames.shape[1])).shape
            )
            shapes["samples"] = list(
                _timed(seconds, "audio decode", lambda: audio.decode(sound, waveform.shape[1])).shape
            )
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    for part, value in seconds.items():
        print(f"{part:20s} {value:9.2f} s")
    print(f"{'peak memory':20s} {peak_gb:9.2f} GB")
    print(json.dumps({"shapes": shapes, "seconds": seconds, "peak_gb": peak_gb}))


def _media(clip: Path | None) -> tuple[Tensor, Tensor]:
    if clip is None:
        frames = torch.randint(0, 256, (1, PAPER.frames, PAPER.height_px, PAPER.width_px, 3), dtype=torch.uint8)
        return frames, 0.1 * torch.randn(1, PAPER.samples).clamp(-3, 3)
    with MediaSandbox() as sandbox:
        loaded = sandbox.load(clip, PAPER)
    assert loaded.frames is not None, "pictures were asked for"
    assert loaded.waveform is not None, "sound was asked for"
    return torch.from_numpy(loaded.frames.copy())[None], torch.from_numpy(loaded.waveform.copy())[None]


def _write_weights(folder: Path) -> None:
    video = OpenSoraVae(VaeConfig())
    save_file(video.state_dict(), folder / "model.safetensors")
    del video
    parts = {
        "vae/diffusion_pytorch_model": (AutoencoderKL.from_config(AUDIO_VAE), AUDIO_VAE),
        "vocoder/model": (SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER)), VOCODER),
    }
    for name, (network, config) in parts.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir()
        save_file(network.state_dict(), path)
        (path.parent / "config.json").write_text(json.dumps(config))


def _timed(seconds: dict[str, float], part: str, work: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[part] = time.perf_counter() - started
    return result


if __name__ == "__main__":
    main()
