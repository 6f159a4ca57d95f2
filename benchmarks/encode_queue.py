"""Compare the stage encode_latents with and without prefetching, in one run.

    python benchmarks/encode_queue.py [CLIPS] [SPEC]

Prints clips/s of both, their ratio, and the share of time that the codecs wait for clips (target: 5% or less where
reading a clip is faster than encoding it).
"""

import sys

import torch

from pipelines.estimate.codec_bench import run_bench
from pipelines.stages.encode_latents import Stage
from uniform.spec import spec_by_name

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a worker of a run
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    spec = spec_by_name(sys.argv[2] if len(sys.argv) > 2 else "paper")
    for line in run_bench(Stage(), spec, clips=clips).lines():
        print(line)
