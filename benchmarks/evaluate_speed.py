"""Seconds a clip of decode + VGGish + CNN14 + I3D against the reference projects' plain loops; and the arithmetic.

    python benchmarks/evaluate_speed.py                 # both
    python benchmarks/evaluate_speed.py --only arithmetic

The weights are stand-ins in the published layouts: the numbers mean nothing, time does. The plain loops do what
av-benchmark, audioldm_eval and cd-fvd do: one pass over the files for each network, each file decoded anew in this
process, one clip at a time through the network. Both sides run the same networks on the same files, in one run, in
turns, with one thread for the networks. The arithmetic: tables 1 and 2 on 2,048 + 2,048 clips whose features are kept,
every row, in a process of its own with one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
import torch
import torchaudio

from tests.support.evaluation_standin import write_checkpoint
from uniform.evaluation.clip_files import open_sandboxes
from uniform.evaluation.extract import ClipJob, Target, extract
from uniform.evaluation.metric_names import Metric, metric_by_name
from uniform.evaluation.protocol import MetricChoice, Protocol, Reading
from uniform.evaluation.streams import Extractors, plan_streams
from uniform.evaluation.table import make_table
from uniform.fingerprint import file_sha256
from uniform.media.clip_file import write_clip
from uniform.spec import PAPER
from uniform.synthetic.worlds import make_clip

METRICS = ("fad_vggish", "fd_cnn14_16k", "fvd_i3d_tats_16f")
NETWORKS = ("vggish", "cnn14_16k", "i3d_tats")
READING = Reading(duration_s=4, fps=17, size_px=256)


def plain_audio(files: Sequence[Path], extractor: Any) -> list[np.ndarray]:
    """audioldm_eval's loop: read a file, one channel, mean removed, resampled, one forward pass of one clip."""
    found = []
    for path in files:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            parts = [frame.to_ndarray() for frame in container.decode(stream)]
            rate_hz, planar = stream.rate, stream.format.is_planar
        sound = np.concatenate(parts, axis=1)
        if sound.dtype.kind == "i":
            sound = sound / float(np.iinfo(sound.dtype).max)
        mono = torch.from_numpy(np.ascontiguousarray(sound if planar else sound[:1], np.float32)).mean(0)
        mono = torchaudio.functional.resample(mono - mono.mean(), rate_hz, extractor.audio.rate_hz)
        wanted = round(READING.duration_s * extractor.audio.rate_hz)
        found.append(extractor.features(waveform=mono[None, :wanted].contiguous())["embedding"].numpy())
    return found


def plain_video(files: Sequence[Path], extractor: Any) -> list[np.ndarray]:
    """cd-fvd's loop: every frame of a file as RGB, the first 16 through the network, one clip at a time."""
    found = []
    for path in files:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]
        clip = torch.from_numpy(np.stack(frames))[None, :16]
        found.append(extractor.features(frames=clip)["logits"].numpy())
    return found


def speed(clips: int, rounds: int, workers: int) -> None:
    """Print seconds a clip of both ways and their ratio."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in NETWORKS:
            write_checkpoint(network, folder)
        files = []
        for number in range(clips):
            clip = make_clip("w1", number, PAPER)
            files.append(folder / "clips" / f"{number:04d}.mp4")
            write_clip(files[-1], clip.frames, clip.waveform, PAPER.fps, PAPER.rate_hz)
        extractors = Extractors(folder)
        opened = {network: extractors.open(network) for network in NETWORKS}
        metrics = [metric_by_name(metric) for metric in METRICS]
        ratios = []
        for turn in range(rounds):
            started = time.perf_counter()
            for network in NETWORKS:
                (plain_video if network.startswith("i3d") else plain_audio)(files, opened[network])
            plain_s = time.perf_counter() - started
            ours_s, share = ours(files, metrics, extractors, folder / f"cache-{turn}", workers)
            ratios.append(plain_s / ours_s)
            print(
                f"round {turn + 1}: plain loops {plain_s / clips:.3f} s a clip, uniform evaluate {ours_s / clips:.3f} "
                f"s a clip, ratio {ratios[-1]:.2f}; the networks waited {share:.1%} of the time for decoding"
            )
        print(f"ratio, median of {rounds} rounds of {clips} clips: {np.median(ratios):.2f} (wanted 1.0 or more)")


def ours(
    files: Sequence[Path], metrics: Sequence[Metric], extractors: Extractors, cache: Path, workers: int
) -> tuple[float, float]:
    """Seconds of the whole stage, with digests and writing of parts, and the share of waiting."""
    started = time.perf_counter()
    plan = plan_streams(metrics, READING, extractors, need_all=True, video=True, audio=True)
    planned = time.perf_counter() - started  # digests of the weights: once a run, not once a clip
    jobs = [ClipJob(content=file_sha256(path), path=path, start_ms=0) for path in files]
    targets = [Target(stream=one, variant="", store=one.store(cache)) for one in plan.streams.values()]
    with open_sandboxes(workers) as sandboxes:
        times = extract(
            jobs,
            targets,
            READING,
            extractors,
            sandboxes,
            want_video=True,
            want_audio=True,
            progress=lambda done, total: None,
        )
    busy = times.networks_s + times.waited_s
    return time.perf_counter() - started - planned, times.waited_s / busy


def arithmetic(clips: int) -> None:
    """Tables 1 and 2 from features in memory, as they come from the store: float32."""
    random = np.random.default_rng(0)
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = {
        "vggish": {"embedding": (4, 128)},
        "cnn14_16k": {"embedding": (2048,), "logits": (527,)},
        "i3d_tats": {"logits": (400,)},
        "c3d_tgan2": {"logits": (101,)},
    }
    names = ("fad_vggish", "kad_vggish", "fd_cnn14_16k", "kad_cnn14_16k", "is_cnn14_16k_10s", "kl_cnn14_16k_eps6")
    names += (
        "kl_cnn14_16k_exact",
        "fvd_i3d_tats_16f",
        "kvd_i3d_tats_16f",
        "is_c3d_tgan2_16f",
        "av_align_v1",
        "av_align_v2",
    )
    metrics = [metric_by_name(name) for name in names]
    cached: dict[tuple[str, str], dict[tuple[str, int], dict[str, np.ndarray]]] = {}

    def arrays(extractor: str, row: str) -> dict[str, np.ndarray]:
        shift = {"real": 0.0, "generated": 0.1, "codec": 0.05, "worst": 1.0}[row]
        if extractor == "av_align":
            times = np.sort(random.uniform(0, 4, 8))
            pairs = np.stack([times, np.zeros(8)], axis=1).astype(np.float32)
            flow = np.stack([random.uniform(0, 3, 68), np.zeros(68)], axis=1).astype(np.float32)
            return {"onsets_s": pairs, "native_onsets_s": pairs, "flow_px": flow}
        return {
            key: (random.standard_normal(shape) + shift).astype(np.float32) for key, shape in shapes[extractor].items()
        }

    def features(metric: Metric, row: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        key = (metric.extractor, row)
        if key not in cached:
            for other in [other for other in cached if other[0] != metric.extractor]:
                del cached[other]
            cached[key] = {(f"{n:05d}", 0): arrays(metric.extractor, row) for n in range(clips)}
        return cached[key]

    protocol = Protocol(
        title="arithmetic",
        about="",
        reading=READING,
        metrics=tuple(MetricChoice(name=name) for name in names),
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    table = make_table(protocol, metrics, features, protocol.rows, lambda done, total: None)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    cells = sum(len(row) for row in table.cells.values())
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {
                "clips": clips,
                "cells": cells,
                "seconds": round(seconds, 1),
                "cpu_s": round(cpu_s, 1),
                "peak_gb": round(peak_gb, 2),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("features", "arithmetic"))
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table-clips", type=int, default=2048)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        arithmetic(options.table_clips)
        return
    if options.only != "arithmetic":
        speed(options.clips, options.rounds, options.workers)
    if options.only != "features":
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, __file__, "--child", "--table-clips", str(options.table_clips)]
        done = subprocess.run(command, env={**os.environ, **one_thread}, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(
            f"arithmetic of {found['clips']:,} + {found['clips']:,} clips, {found['cells']} cells: {found['cpu_s']} s "
            f"of one core's time ({found['seconds']} s by the clock), {found['peak_gb']} GB "
            "(wanted under 60 s and 2 GB)"
        )


if __name__ == "__main__":
    main()
