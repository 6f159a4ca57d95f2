"""How fast latents come through torch's DataLoader with two workers, against our own loader's loop in one process.

    python benchmarks/dataloader.py [--seconds 3] [--spec paper]

All ways read the same shards, which the benchmark writes, warm in the page cache: normalised float32 and padded text,
in batches of 64, and by the clock: worker processes have a processor time of their own. Three rounds in turn, the best
of each counts. The last line is the ratio that must be 0.5 or more: batches through a DataLoader against our loop.
"""

import argparse
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tests.support.shard_folder import write_shard_folder
from uniform.api.latent_dataset import LatentDataset
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.spec import SPECS, Spec

BATCH = 64
WORKERS = 2
WANTED = 0.5
CLIPS = {"toy": 16_384, "paper": 2_048}


def clips_per_s(batches: Iterator[Any], seconds: float) -> float:
    """Clips per second of the clock; the first batch, in which workers start, is not counted."""
    next(batches)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        batch = next(batches)
        done += len(batch["video"])
    return done / (time.perf_counter() - begin)


def for_ever(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, pass after pass."""
    while True:
        yield from loader


def measure(spec: Spec, folder: Path, seconds: float) -> dict[str, float]:
    """Clips per second of every way, best of three rounds."""
    write_shard_folder(folder, clips=CLIPS[spec.name], spec=spec, unit_clips=512)
    loader = Loader(Mixture([SourceConfig(folder=folder)], seed=0), LoaderConfig(global_batch=BATCH, read_ahead=0))
    dataset = LatentDataset(folder)
    options: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True}
    stream = dataset.stream(shuffle_clips=256)

    def own() -> Iterator[Any]:
        step = 0
        while True:
            (batch,) = loader.read(step)
            yield {"video": batch.clean.video}
            step += 1

    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "our loader's loop, one process": own,
        "LatentDataset's own loop, one process": lambda: for_ever(
            DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=dataset.collate)
        ),
        "DataLoader, 2 workers, our collate": lambda: for_ever(
            DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=dataset.collate, **options)
        ),
        "DataLoader, 2 workers, default collate": lambda: for_ever(
            DataLoader(dataset, batch_size=BATCH, shuffle=True, **options)
        ),
        "DataLoader, 2 workers, stream": lambda: for_ever(DataLoader(stream, batch_size=BATCH, **options)),
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(3):
        for name, way in ways.items():
            best[name] = max(best[name], clips_per_s(way(), seconds))
    return best


def main() -> None:
    """Print the table; exit with 1 where the ratio is below the wanted one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="Per measurement.")
    parser.add_argument("--spec", choices=sorted(CLIPS), default="paper", help="Geometry of the clips.")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    folder = Path(tempfile.mkdtemp(prefix="uniform-dataloader-"))
    try:
        best = measure(SPECS[chosen.spec], folder, chosen.seconds)
    finally:
        shutil.rmtree(folder)
    for name, rate in best.items():
        print(f"{name:<42} {rate:>9,.0f} clips/s")
    rates = list(best.values())
    ratio = rates[2] / rates[0]
    print(f"spec {chosen.spec}: DataLoader with 2 workers / our loop = {ratio:.2f} (wanted: {WANTED} or more)")
    sys.exit(0 if ratio >= WANTED else 1)


if __name__ == "__main__":
    main()
