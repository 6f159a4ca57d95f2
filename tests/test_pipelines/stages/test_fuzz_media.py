"""Damaged files never stop the worker: each is kept or dropped with a code, in bounded time.

The damage is seeded: bits flipped, header bytes overwritten, tails cut, holes zeroed, blocks swapped within a file and
spliced from another. The base clips are generated, so the test runs anywhere.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.codes import CODES
from tests.support.media_files import ffmpeg, write_numbered
from uniform.errors import MediaError
from uniform.media.clip_file import read_clip
from uniform.media.sandbox import MediaSandbox
from uniform.spec import Spec

TINY = Spec(name="tiny", height_px=32, width_px=32, duration_s=1, mel_bins=16)
LIMIT_S = 20.0
BASES = {
    "front.mp4": ("-c:v", "libx264", "-g", "12", "-c:a", "aac", "-movflags", "+faststart"),
    "back.mp4": ("-c:v", "libx264", "-bf", "3", "-c:a", "libmp3lame"),
    "fragmented.mp4": ("-c:v", "libx265", "-x265-params", "log-level=0", "-c:a", "aac",
                       "-movflags", "frag_keyframe+delay_moov"),
    "a.mkv": ("-c:v", "mpeg4", "-c:a", "flac"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
    "vp8.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis"),
    "a.ts": ("-c:v", "libx264", "-c:a", "aac"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "a.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le"),
    "h263.3gp": ("-c:v", "h263", "-s", "128x96", "-c:a", "aac"),
    "a.mov": ("-c:v", "ffv1", "-c:a", "pcm_s16le"),
    "a.flv": ("-c:v", "flv1", "-c:a", "libmp3lame", "-ar", "44100"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    source = write_numbered(folder / "source.mp4", seconds=1.4)
    for name, options in BASES.items():
        ffmpeg("-i", source, "-threads", "1", *options, folder / name)
    return [folder / name for name in BASES]


def damaged(bases: list[Path], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files, each with a name that identifies its damage."""
    contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in bases]
    for number in range(count):
        chance = np.random.default_rng((seed, number))
        which = number % len(bases)
        content = contents[which].copy()
        kind = ("flips", "header", "cut", "hole", "swap", "splice", "repeat")[chance.integers(7)]
        begin, length = chance.integers(len(content)), int(chance.integers(1, max(2, len(content) // 4)))
        block = content[begin : begin + length]
        if kind == "flips":
            at = chance.integers(len(content), size=chance.integers(1, 60))
            content[at] ^= (1 << chance.integers(8, size=len(at))).astype(np.uint8)
        elif kind == "header":
            at = chance.integers(min(len(content), 3_000), size=chance.integers(1, 12))
            content[at] = chance.integers(256, size=len(at), dtype=np.uint8)
        elif kind == "cut":
            content = content[:begin]
        elif kind == "hole":
            block[:] = 0
        elif kind == "swap":
            other = chance.integers(max(1, len(content) - len(block)))
            block[:] = content[other : other + len(block)].copy()
        elif kind == "splice":
            donor = contents[chance.integers(len(contents))]
            content = np.concatenate([content[:begin], donor[chance.integers(len(donor)) :]])
        else:
            content = np.concatenate([content[: begin + length], content[begin:]])
        yield f"{number}-{kind}-{bases[which].name}", content.tobytes()


def results(bases: list[Path], count: int, folder: Path, seed: int) -> Counter[str]:
    """Number of files per result, "kept" or a drop code. Fails on an unknown code."""
    counted: Counter[str] = Counter()
    with MediaSandbox(time_limit_s=LIMIT_S, recycle_after=250) as sandbox:
        for name, content in damaged(bases, count, seed):
            path = folder / "damaged.bin"
            path.write_bytes(content)
            started = time.monotonic()
            try:
                made = sandbox.normalise(path, TINY)
            except MediaError as error:
                counted[error.code] += 1
                if error.code in ("decode_crash", "decode_timeout", "decode_memory"):
                    print(name, error.reason, f"{time.monotonic() - started:.1f} s")
            else:
                read_clip(made.mp4, TINY)
                counted["kept"] += 1
    assert set(counted) <= {"kept", *CODES}
    return counted


def test_a_hundred_damaged_files_are_kept_or_coded(bases: list[Path], tmp_path: Path) -> None:
    counted = results(bases, 100, tmp_path, seed=1)

    assert counted.total() == 100
    assert counted["decode_timeout"] == counted["decode_crash"] == 0
    assert counted["kept"] > 5
    assert len(counted) >= 4


@pytest.mark.slow
def test_two_thousand_damaged_files_cause_no_hang_and_no_crash(bases: list[Path], tmp_path: Path) -> None:
    counted = results(bases, 2_000, tmp_path, seed=2)

    print(dict(counted.most_common()))
    assert counted.total() == 2_000
    assert counted["decode_timeout"] == counted["decode_crash"] == 0
