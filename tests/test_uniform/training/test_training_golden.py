"""The curve of 50 toy steps is a fixed thing: whoever changes it on purpose writes the new one down.

python tests/test_uniform/training/test_training_golden.py      writes tests/data/golden_curve.json
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.support.paths import DATA
from tests.support.shard_folder import write_shard_folder
from tests.support.tiny_run import losses
from uniform.training.settings.presets import load_config
from uniform.training.trainer import train

GOLDEN = DATA / "golden_curve.json"
CHANGES = (
    "steps=50",
    "seed=7",
    "model.depth=2",
    "model.width=64",
    "model.heads=4",
    "data.global_batch=3",
    "optimiser.kind=adamw",
    "optimiser.warmup_steps=10",
    "log.tensorboard=false",
    "compute.device=cpu",
    "compute.threads=1",
)


def curve(objective: str, folder: Path) -> list[float]:
    """50 losses of the toy preset, thinner, on random shards of a fixed seed."""
    torch.set_num_threads(1)
    write_shard_folder(folder / "shards", clips=20, seed=3)
    words = (f'data.sources=[{{folder="{folder / "shards"}"}}]', f'out="{folder / "run"}"')
    variance = f"model.learned_variance={'true' if objective == 'epsilon' else 'false'}"
    train(load_config("toy", [*CHANGES, *words, f"diffusion.objective={objective}", variance]))
    return losses(folder / "run")


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_fifty_toy_steps_give_the_golden_curve(objective: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[objective]

    assert curve(objective, tmp_path) == pytest.approx(golden, abs=1e-4)


if __name__ == "__main__":
    found = {}
    for name in ("epsilon", "v", "flow"):
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = [round(value, 6) for value in curve(name, Path(scratch))]
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN}\n")
