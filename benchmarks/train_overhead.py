"""What our loop costs over a bare loop of the same network, batches and optimiser; how long it waits for data.

    python benchmarks/train_overhead.py [--steps 30]

Both loops run the toy preset with torch's AdamW on random shards in this process with one thread, in turns of five
steps, so that whatever else the machine does meets both alike. Times are CPU seconds of this process.
"""

import argparse
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch

from tests.support.shard_folder import write_shard_folder
from uniform.checkpoint_format import read_metadata
from uniform.model.transformer import UniForm
from uniform.spec import TOY
from uniform.training.optimiser.ema import Ema
from uniform.training.optimiser.optimiser import Optimiser
from uniform.training.parallel.processes import join_processes
from uniform.training.saving.saver import Saver
from uniform.training.settings.presets import load_config
from uniform.training.setup import Prepared, prepare
from uniform.training.state import State
from uniform.training.step import clip_losses, draw
from uniform.training.trainer import Trainer

TURN = 5


class Bare:
    """The least that trains: forward, backward, clip, AdamW. Batches and draws are made beforehand."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        config = prepared.config
        self.batches = [prepared.loader.read(step)[0] for step in range(TURN)]
        self.drawn = [
            draw(batch, prepared.objective, config.tasks, config.seed, config.data.global_batch)
            for batch in self.batches
        ]
        self.adam = torch.optim.AdamW(prepared.state.model.parameters(), lr=1e-5, fused=True)

    def turn(self) -> None:
        """TURN steps."""
        for batch, drawn in zip(self.batches, self.drawn, strict=True):
            losses = clip_losses(self.prepared.callable_model, self.prepared.objective, batch, drawn)
            torch.autograd.backward(losses.total.mean())
            torch.nn.utils.clip_grad_norm_(self.prepared.state.model.parameters(), 1.0)
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)


class Ours:
    """The trainer's own step, with the stream, the average, the statistics, the hash chain and the journal."""

    def __init__(self, prepared: Prepared) -> None:
        self.trainer = Trainer(prepared, [])
        self.stream = prepared.loader.stream(0)
        self.waited = self.whole = 0.0

    def turn(self) -> None:
        """TURN steps."""
        for _ in range(TURN):
            begin = time.perf_counter()
            batches = next(self.stream)
            self.waited += time.perf_counter() - begin
            self.trainer._step(batches)
            self.trainer._after_step(stopping=False)
            self.whole += time.perf_counter() - begin


def main() -> None:
    """Print the ratio, the wait, and the pause of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    turns = max(2, parser.parse_args().steps // TURN)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, join_processes(load_config("toy").compute) as processes:
        root = Path(scratch)
        write_shard_folder(root / "shards", clips=256)
        words = (f'data.sources=[{{folder="{root / "shards"}"}}]', "data.residency=disk", "compute.threads=1")
        quiet = ("log.tensorboard=false", f"log.every={TURN}", "checkpoint.every=100000", "compute.device=cpu")
        config = load_config("toy", [*words, *quiet, "optimiser.kind=adamw", f'out="{root / "run"}"'])
        (root / "run").mkdir()
        ours, bare = Ours(prepare(config, processes)), Bare(prepare(config, processes))
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(turns):
            for name, loop in (("ours", ours), ("bare", bare)):
                begin = time.process_time()
                loop.turn()
                seconds[name].append((time.process_time() - begin) / TURN)
        ours.stream.close()
        print(f"{date.today()}, {platform.machine()}, one thread, toy preset, batch {config.data.global_batch}")
        for name, found in seconds.items():
            print(f"  {name}: {median(found):.3f} CPU s a step (median of {turns} turns of {TURN})")
        print(
            f"  overhead of our loop: {median(seconds['ours']) / median(seconds['bare']) - 1:+.1%} (wanted 3% or less)"
        )
        print(f"  data wait, disk residency: {ours.waited / ours.whole:.2%} of the clock (wanted 1% or less)")
        _checkpoint(root / "checkpoints")


def _checkpoint(folder: Path) -> None:
    """Save and restore a state of about 1 GB, by the clock."""
    config = load_config("toy", ["model.width=640", "model.depth=4", "model.heads=8", 'optimiser.kind="adamw"'])
    model = UniForm(config.model, TOY.video_latent, TOY.audio_latent)
    state = State(model, Ema(model, config.ema), Optimiser(model, config.optimiser))
    pauses: dict[str, tuple[float, float]] = {}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.update(1e-4)
    saver = Saver(folder, config.checkpoint)
    for name in ("the first", "a later one"):
        begin, worked = time.perf_counter(), time.process_time()
        snapshot = state.snapshot({})
        pauses[name] = (time.perf_counter() - begin, time.process_time() - worked)
        saver.save(snapshot)
        (path,) = saver.wait()
        whole = time.perf_counter() - begin
        state.step += 1
    saver.close()
    gigabytes = sum(read_metadata(path)["files"].values()) / 1e9
    print(f"  checkpoint of {gigabytes:.2f} GB: whole on disk after {whole:.2f} s")
    for name, (clock, processor) in pauses.items():
        print(
            f"  pause of the loop, {name}: {clock / gigabytes:.2f} s for each GB by the clock, "
            f"{processor / gigabytes:.2f} s of processor time (wanted 0.10 s or less)"
        )
    begin = time.perf_counter()
    state.restore(path)
    print(f"  going on from it: {time.perf_counter() - begin:.2f} s (wanted 30 s or less for 1 GB)")


if __name__ == "__main__":
    main()
