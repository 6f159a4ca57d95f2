"""Every file that a pipeline run, a training, an export and a sample leave has the mode that the umask gives."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.tiny_run import TINY

OLD = ROOT / "tests" / "data" / "made_by_0_3_0"
UMASK = 0o027
"""Neither what libraries choose by themselves nor the usual umask."""


def uniform(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "cli.main", *words]
    run = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, umask=UMASK, check=False)
    assert run.returncode == 0, words


def test_every_artifact_of_run_training_export_and_sample_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    manifest = str(next((OLD / "clips").glob("*.toml")))
    uniform(tmp_path, "pipeline", "run", manifest, "--recipe", str(OLD / "recipe.toml"), "--out", "run", "--inline")
    words = [*TINY, "log.sample_losses=true", "log.tensorboard=true", "steps=1", "data.global_batch=1"]
    uniform(tmp_path, "train", "toy", *words, "--shards", "run", "--out", "training")
    uniform(tmp_path, "export", "training", "exported/model.safetensors")
    uniform(tmp_path, "export", "training", "diffusers", "--diffusers")
    uniform(tmp_path, "sample", "-c", "training", "--text", "a", "--steps", "1", "--out", "samples", "--latents")

    found = list(tmp_path.rglob("*"))
    modes = {path: path.stat().st_mode & 0o777 for path in found}
    wrong = {
        str(path.relative_to(tmp_path)): oct(mode)
        for path, mode in modes.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~UMASK
    }
    suffixes = {path.suffix for path in found}
    assert suffixes >= {".tar", ".parquet", ".json", ".safetensors", ".jsonl", ".png", ".mp4", ".wav", ".lock"}
    assert wrong == {}
