"""Write a world as a dataset: media files of usual formats, a listing with the truth, a manifest.

    <folder>/<name>.toml            the manifest, for `uniform manifest` and `uniform pipeline run`
    <folder>/listing.jsonl          one line per clip: file, start, split, caption, label, truth
    <folder>/media-<digest>/        H.264 + AAC in MP4, MOV and MKV, VP8 + Opus in WebM

The files differ in size, frame rate, sample rate and container, and in many of them the clip starts late, so that a
pipeline that is wrong by a frame is detected. The same arguments give the same bytes; existing files are kept.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniform.atomic import write_bytes
from uniform.errors import InputError
from uniform.fingerprint import digest
from uniform.spec import Spec
from uniform.synthetic.audio import render_audio
from uniform.synthetic.media_variants import write_media_variants
from uniform.synthetic.scene import truth_of
from uniform.synthetic.video import View, render_video
from uniform.synthetic.worlds import draw_scene

VERSION = 1
"""Raised with every change that changes clips; part of the media folder's name."""
LISTING_NAME = "listing.jsonl"
_SEEDS_PER_DATASET = 2_000_000
_FIRST_TEST_SEED = 1_000_000
"""Train and test clips never share a scene."""
_AFTER_S = 0.4
"""Length of the files after the clip."""
_SHAPES = ((1.0, 1.0), (1.125, 4 / 3), (1.125, 16 / 9), (1.5, 4 / 3))
"""(height in heights of the spec, width in heights of the file)."""
_RATES_FPS = (25, 30, 50)
_SAMPLE_RATES_HZ = (16_000, 44_100, 48_000)
_LEADS_MS = (0, 0, 400, 1000)
_SUFFIXES = (".mp4", ".mp4", ".mp4", ".mov", ".mkv", ".webm")


@dataclass(frozen=True, kw_only=True)
class FileForm:
    """Format of the file of one clip, and the start of the clip in it."""

    name: str
    height_px: int
    width_px: int
    fps: int
    rate_hz: int
    start_ms: int


def write_world(world: str, spec: Spec, folder: Path, *, train_clips: int, test_clips: int, seed: int = 0) -> Path:
    """Write `world` into `folder`.

    Args:
        world: a key of `uniform.synthetic.worlds.WORLDS`.
        spec: sizes and length follow from it; the files are never smaller than the spec's frames.
        folder: created if missing.
        train_clips: clips of split "train".
        test_clips: clips of split "test".
        seed: another seed gives other scenes; the first thousand million seeds share none.
    Returns: the manifest's path.
    Raises: InputError for counts or a seed out of range; ConfigError for an unknown world.
    """
    if not 0 <= train_clips <= _FIRST_TEST_SEED or not 0 <= test_clips <= _FIRST_TEST_SEED or seed < 0:
        raise InputError(
            f"{train_clips} train and {test_clips} test clips with seed {seed}; wanted 0 to {_FIRST_TEST_SEED:,} "
            f"of each, and a seed of 0 or more"
        )
    if train_clips + test_clips == 0:
        raise InputError("0 clips; wanted one or more")
    media = f"media-{digest([VERSION, world, seed, spec.as_dict()])}"
    lines = []
    for split, scene_seed in _seeds(train_clips, test_clips, seed):
        form = choose_file_form(world, scene_seed, spec)
        scene = draw_scene(world, scene_seed, spec.duration_s)
        path = folder / media / form.name
        if not path.is_file():
            _write_file(world, scene_seed, spec, form, path)
        lines.append(
            {
                "path": f"{media}/{form.name}",
                "start_ms": form.start_ms,
                "split": split,
                "caption": scene.caption,
                "label": scene.label,
                "world": world,
                "seed": scene_seed,
                "truth": truth_of(scene).to_json(),
            }
        )
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    write_bytes(folder / LISTING_NAME, text.encode())
    manifest = folder / f"avworld_{world}.toml"
    write_bytes(manifest, _manifest(world, spec).encode())
    return manifest


def choose_file_form(world: str, scene_seed: int, spec: Spec) -> FileForm:
    """Choose the file format of the clip: drawn from the seed, independent of its content."""
    random = np.random.default_rng([scene_seed, 77])
    tall, wide = _SHAPES[random.integers(len(_SHAPES))]
    suffix = _SUFFIXES[random.integers(len(_SUFFIXES))]
    height = _even(tall * spec.height_px)
    rate_hz = int(_SAMPLE_RATES_HZ[random.integers(len(_SAMPLE_RATES_HZ))])
    return FileForm(
        name=f"{world}_{scene_seed:08d}{suffix}",
        height_px=height,
        width_px=_even(height * max(wide, spec.width_px / spec.height_px)),
        fps=int(_RATES_FPS[random.integers(len(_RATES_FPS))]),
        rate_hz=48_000 if suffix == ".webm" else rate_hz,
        start_ms=int(_LEADS_MS[random.integers(len(_LEADS_MS))]),
    )


def _write_file(world: str, scene_seed: int, spec: Spec, form: FileForm, path: Path) -> None:
    scene = draw_scene(world, scene_seed, spec.duration_s)
    start_s = -form.start_ms / 1000
    frames = round((spec.duration_s + _AFTER_S - start_s) * form.fps)
    view = View(height_px=form.height_px, width_px=form.width_px, fps=form.fps, frames=frames, start_s=start_s)
    waveform = render_audio(scene, rate_hz=form.rate_hz, samples=frames * form.rate_hz // form.fps, start_s=start_s)
    write_media_variants(path, render_video(scene, view), waveform, form.fps, form.rate_hz)


def _seeds(train_clips: int, test_clips: int, seed: int) -> Iterator[tuple[str, int]]:
    first = seed * _SEEDS_PER_DATASET
    for number in range(train_clips):
        yield "train", first + number
    for number in range(test_clips):
        yield "test", first + _FIRST_TEST_SEED + number


def _even(size: float) -> int:
    return 2 * round(size / 2)


def _manifest(world: str, spec: Spec) -> str:
    values: dict[str, Any] = {"world": world, "seconds": float(spec.duration_s), "listing": LISTING_NAME}
    return _MANIFEST.format(**values)


_MANIFEST = """\
name = "avworld_{world}"
kind = "local"
title = "Synthetic world {world}: generated clips with exact truth"
root = "."
license = "CC0-1.0"

[listing]
file = "{listing}"
duration_s = {seconds}

[listing.columns]
source_uri = "path"
start_ms = "start_ms"
split = "split"
labels = "label"
caption = "caption"

[listing.extra]
world = "world"
seed = "seed"
truth = "truth"
"""
