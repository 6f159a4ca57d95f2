"""Check that this machine has what the toolkit needs; each finding says how to install what is missing.

Imports are tried in separate processes: a broken compiled package can end the process that loads it.
"""

import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TIME_LIMIT_S = 120.0
"""A cold import of transformers takes ten seconds; two minutes count as a hang."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: Literal["ok", "warning", "missing"]
    """ok; warning: one feature does not work; missing: the toolkit does not work."""
    found: str
    repair: str = ""


@dataclass(frozen=True)
class _Import:
    name: str
    code: str
    """Python code that prints what was found, usually a version."""
    purpose: str
    repair: str
    required: bool = True


_TORCH_PAIR = (
    "torch and torchaudio must be of one build: a CUDA torchaudio with a CPU-only torch cannot load and breaks most "
    "classes of transformers. Install the pair named in requirements.lock: uv pip install -r requirements.lock"
)
_INSTALL = "uv pip install -r requirements.lock"
_X264 = "import av; av.Codec('libx264', 'w'); print(av.__version__, 'with libx264')"
_FFMPEG = "import imageio_ffmpeg as f; print(f.get_ffmpeg_version(), f.get_ffmpeg_exe())"
_TORCH = (
    "import torch; a = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else 'cpu'; "
    "print(torch.__version__, 'on', a)"
)

_IMPORTS = (
    _Import("torch", _TORCH, "everything that computes", _INSTALL),
    _Import("torchaudio", "import torchaudio; print(torchaudio.__version__)", "resampling and mel", _TORCH_PAIR),
    _Import("av", _X264, "reading untrusted media, writing clips", _INSTALL),
    _Import("decord", "import decord; print(decord.__version__)", "reading normalised clips", _INSTALL),
    _Import("ffmpeg", _FFMPEG, "the fallback interface to media", _INSTALL, required=False),
    _Import("webdataset", "import webdataset; print(webdataset.__version__)", "shards", _INSTALL),
    _Import("pyarrow", "import pyarrow; print(pyarrow.__version__)", "manifests, ledgers, indices", _INSTALL),
    _Import("ray", "import ray; print(ray.__version__)", "preparation on a cluster; without it: --inline", _INSTALL),
    _Import(
        "transformers",
        "import transformers; from transformers import T5EncoderModel; print(transformers.__version__)",
        "the published text encoders and captioners",
        _TORCH_PAIR,
    ),
    _Import(
        "diffusers",
        "import diffusers; from diffusers import AutoencoderKL; print(diffusers.__version__)",
        "the published image and audio VAEs",
        _TORCH_PAIR,
    ),
    _Import(
        "yt-dlp",
        "import yt_dlp_ejs; from yt_dlp.version import __version__; print(__version__)",
        "fetching from video sites",
        "uv pip install --upgrade 'yt-dlp[default]'; its extractors age in weeks",
        required=False,
    ),
)


def examine(folder: Path) -> list[Finding]:
    """Run every check.

    Args:
        folder: where results are to be written; its free space is checked.
    """
    with ThreadPoolExecutor() as pool:  # each thread waits for its own process
        imports = list(pool.map(_try_import, _IMPORTS))
    return [_python(), *imports, _javascript_runtime(), _disk(folder)]


def _python() -> Finding:
    return Finding("python", "ok", sys.version.split()[0])  # an older one cannot import this file


def _try_import(check: _Import) -> Finding:
    absent: Literal["warning", "missing"] = "missing" if check.required else "warning"
    try:
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", check.code], capture_output=True, text=True, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Finding(check.name, absent, f"the import did not end within {TIME_LIMIT_S:.0f} s", check.repair)
    if run.returncode == 0:
        return Finding(check.name, "ok", run.stdout.strip())
    complaint = run.stderr.strip().splitlines()[-1:] or [f"the process ended with code {run.returncode}"]
    return Finding(check.name, absent, f"{complaint[0]} (needed for: {check.purpose})", check.repair)


def _javascript_runtime() -> Finding:
    scripts = sysconfig.get_path("scripts")  # yt-dlp looks there too, even if it is not on the path
    runtime = shutil.which("deno", path=scripts) or shutil.which("deno")
    if runtime:
        return Finding("deno", "ok", runtime)
    return Finding(
        "deno",
        "warning",
        "no JavaScript runtime: yt-dlp offers fewer YouTube formats without one",
        "uv pip install 'uniform-toolkit[deno]', or install deno from your system's packages",
    )


def _disk(folder: Path) -> Finding:
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb >= 10:
        return Finding("disk", "ok", f"{free_gb:.0f} GB free at {place}")
    return Finding(
        "disk", "warning", f"{free_gb:.1f} GB free at {place}", "290,000 clips take about 200 GB; choose --out"
    )
