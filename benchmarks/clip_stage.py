"""Compare the stage clip_media with one ffmpeg command per clip, in one run, both on one core.

Both do the same work on the same files: the first 4 s, 17 fps, shorter side to size, centre crop, x264 with the same
preset, quality and key frames, 16 kHz mono FLAC, one MP4 file. They alternate on each file, so that other load affects
both. Prints two ratios: of wall-clock time, and of processor time, which other programs do not disturb; then the memory
of worker and child process after 50, 100 and 200 clips.

    python benchmarks/clip_stage.py [FOLDER] [--clips 40]
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from uniform.errors import MediaError
from uniform.media.clip_file import write_clip
from uniform.media.encode import CLIP_CRF, CLIP_PRESET, Mp4Settings
from uniform.media.sandbox import MediaSandbox
from uniform.spec import PAPER, Spec

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "clips"
GENERATED = 12
MILESTONES = (50, 100, 200)
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run both; print clips per second and the ratio, then memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=DEFAULT_FOLDER,
        help="folder of real clips; without it, clips are generated",
    )
    parser.add_argument("--clips", type=int, default=60, help="files to use at most")
    parser.add_argument("--rounds", type=int, default=2, help="times that each file is processed by each side")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # children inherit it
    with tempfile.TemporaryDirectory() as scratch, MediaSandbox() as sandbox:
        files = _usable(_real(arguments.folder) or _generated(Path(scratch)), sandbox)[: arguments.clips]
        print(f"{len(files)} files, spec '{PAPER.name}', preset {CLIP_PRESET}, crf {CLIP_CRF}")
        ours, theirs = _race(files, sandbox, Path(scratch) / "out.mp4", arguments.rounds)
        for kind in ("wall_s", "cpu_s"):
            mine, bare = getattr(ours, kind), getattr(theirs, kind)
            print(
                f"{kind}: clip stage {len(files) / mine:5.2f} clips/s per core ({mine / len(files):.3f} s a clip),",
                end=" ",
            )
            print(
                f"bare ffmpeg {len(files) / bare:5.2f} ({bare / len(files):.3f} s), ratio {bare / mine:.2f}, wanted 1.2"
            )
        _memory(files, sandbox)


def _real(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.*") if path.suffix != ".csv") if folder.is_dir() else []


def _generated(folder: Path) -> list[Path]:
    """Write clips of moving noise-free video and a tone, 360p, 30 fps, 6 s."""
    rows, columns = np.mgrid[0:360, 0:640]
    paths = []
    for number in range(GENERATED):
        waves = [128 + 120 * np.sin((columns + rows * 0.3 + 5 * frame) / (9 + number)) for frame in range(180)]
        frames = np.stack(waves).astype(np.uint8)[..., None].repeat(3, axis=-1)
        tone = np.sin(np.arange(6 * 44_100) * (0.02 + 0.005 * number)).astype(np.float32) * 0.5
        paths.append(folder / f"generated{number:02d}.mp4")
        write_clip(paths[-1], frames, tone, Fraction(30), 44_100, audio_codec="aac", crf=23)
    return paths


def _usable(files: list[Path], sandbox: MediaSandbox) -> list[Path]:
    kept = []
    for path in files:
        try:
            sandbox.normalise(path, PAPER)
        except MediaError:
            continue
        kept.append(path)
    return kept


@dataclass
class Cost:
    """Seconds for all files."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


def _race(files: list[Path], sandbox: MediaSandbox, out: Path, rounds: int) -> tuple[Cost, Cost]:
    """Cost of both for all files; of each file, the best of its rounds."""
    ours, theirs = Cost(), Cost()
    for path in files:
        mine = [_cost(lambda path=path: sandbox.normalise(path, PAPER), sandbox) for _ in range(rounds)]
        bare = [_cost(lambda path=path: _ffmpeg(path, out), sandbox) for _ in range(rounds)]
        for total, costs in ((ours, mine), (theirs, bare)):
            total.wall_s += min(cost.wall_s for cost in costs)
            total.cpu_s += min(cost.cpu_s for cost in costs)
    return ours, theirs


def _cost(work: Callable[[], object], sandbox: MediaSandbox) -> Cost:
    cpu_s, started = _cpu_s(sandbox), time.perf_counter()
    work()
    return Cost(time.perf_counter() - started, _cpu_s(sandbox) - cpu_s)


def _cpu_s(sandbox: MediaSandbox) -> float:
    """Processor time of this process, of its finished children, and of the sandbox's child."""
    used = os.times()
    stat = Path(f"/proc/{sandbox.child_id}/stat").read_text().rsplit(")", 1)[1].split()
    return used.user + used.system + used.children_user + used.children_system + (int(stat[11]) + int(stat[12])) / TICKS


def _ffmpeg(path: Path, out: Path) -> None:
    subprocess.run(_command(path, PAPER, out), check=True, stdin=subprocess.DEVNULL)


def _command(path: Path, spec: Spec, out: Path) -> list[str]:
    height, width = spec.height_px, spec.width_px
    video = (
        f"fps={spec.fps},scale={width}:{height}:force_original_aspect_ratio=increase:flags=bicubic,"
        f"crop={width}:{height},setsar=1,format=yuv420p"
    )
    options = Mp4Settings(fps=Fraction(spec.fps), rate_hz=spec.rate_hz).video_options
    encoder = [part for name, value in options.items() for part in (f"-{name}:v", value) if name != "threads"]
    limits = ["-threads", "1", "-filter_threads", "1", "-t", str(spec.duration_s)]
    audio = ["-c:a", "flac", "-ar", str(spec.rate_hz), "-ac", "1"]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "quiet", "-y", "-threads", "1"]
    return [
        *program, "-i", f"file:{path}", *limits, "-vf", video, "-c:v", "libx264", *encoder,
        *audio, "-movflags", "+faststart", f"file:{out}",
    ]  # fmt: skip


def _memory(files: list[Path], sandbox: MediaSandbox) -> None:
    """Print the resident memory at the milestones; a leak of 1 MB per clip shows as 150 MB."""
    shortest = sorted(files, key=lambda path: path.stat().st_size)[:20]
    for number in range(1, MILESTONES[-1] + 1):
        sandbox.normalise(shortest[number % len(shortest)], PAPER)
        if number in MILESTONES:
            assert sandbox.child_id is not None
            worker_mb, child_mb = _resident_mb("self"), _resident_mb(sandbox.child_id)
            print(f"after {number:3d} clips: worker {worker_mb} MB, child {child_mb} MB")


def _resident_mb(process: int | str) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 >> 20


if __name__ == "__main__":
    main()
