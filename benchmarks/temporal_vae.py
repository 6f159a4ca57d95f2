"""The temporal VAE at its published size: all chunks of a batch at once against one chunk at a time.

    python benchmarks/temporal_vae.py                          # 4 chunks of a 256 x 256 clip, several minutes on a CPU
    python benchmarks/temporal_vae.py --latent-px 8 --repeats 3

All variants run the same weights on the same chunks, alternating, in one process: one chunk at a time, all at once, and
all at once with channels-last convolutions, as in the codec. Prints seconds (best of the repeats; processor time on a
CPU, so that other programs do not count), the ratios, and the differences of the latents.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor

from uniform.codecs.device import pick_device, precision
from uniform.codecs.opensora_temporal import TemporalConfig, TemporalVae

CHUNK_FRAMES = 17


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=4, help="chunks in the batch")
    parser.add_argument("--latent-px", type=int, default=32, help="rows and columns of the spatial latents")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    torch.manual_seed(0)
    plain = TemporalVae(TemporalConfig()).eval().requires_grad_(False).to(device)
    last = copy.deepcopy(plain)
    last.to(memory_format=torch.channels_last_3d)
    chunks = torch.randn(arguments.chunks, 4, CHUNK_FRAMES, arguments.latent_px, arguments.latent_px, device=device)
    ways: dict[str, Callable[[], Tensor]] = {
        "one chunk at a time": lambda: torch.cat([plain.moments(chunk.unsqueeze(0)) for chunk in chunks]),
        "all at once": lambda: plain.moments(chunks),
        "all at once, channels last": lambda: last.moments(chunks),
    }
    seconds, results = _race(ways, device, arguments.repeats)
    one = results["one chunk at a time"]
    print(f"{tuple(chunks.shape)} on {device}, {arguments.threads} thread(s), float32")
    for name, value in seconds.items():
        difference = float((results[name] - one).abs().max() / one.abs().max())
        ratio = seconds["one chunk at a time"] / value
        print(f"{name:28s} {value:9.2f} s   {ratio:5.2f} x one at a time   largest difference {difference:.1e}")


def _race(
    ways: dict[str, Callable[[], Tensor]], device: torch.device, repeats: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Best seconds and result of each way; the ways take turns so that a busy machine disturbs both alike."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, float] = {}
    results: dict[str, Tensor] = {}
    with precision(device, torch.float32):
        for _ in range(repeats):
            for name, way in ways.items():
                started = clock()
                results[name] = way()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[name] = min(seconds.get(name, float("inf")), clock() - started)
    return seconds, results


if __name__ == "__main__":
    main()
