"""Metric against degradation: do the offline tier's numbers rise as real clips are made worse?

Real clips are cut into windows of 2 s. Even windows are the real set, odd ones the other half, as they are (the floor)
and degraded in known ways. Both halves pass through the same encoder, so that only the degradation differs.

    python benchmarks/evaluate_degradation.py FOLDER_OF_CLIPS --out degradation

Writes degradation.json and degradation.png into --out, and prints a table.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage, signal

from uniform.errors import MediaError
from uniform.evaluation.protocol import read_protocol
from uniform.evaluation.run import Options, evaluate
from uniform.media.clip_file import write_clip
from uniform.media.sandbox import MediaSandbox
from uniform.spec import Spec

matplotlib.use("Agg")
SPEC = Spec(name="degradation", height_px=128, width_px=128, duration_s=2)
PROTOCOL = """
title = "Degradation"
about = "Windows of real clips against degraded windows of the same clips."
rows = ["generated"]
[reading]
duration_s = 2
fps = 17
size_px = 128
[sets]
same_clips = false
"""
METRICS = ("kad_yamnet", "fd_yamnet", "kad_effnet_lite0", "fd_effnet_lite0", "kad_transnetv2", "fd_transnetv2")
Frames, Sound = np.ndarray, np.ndarray
Change = Callable[[Frames, Sound, np.random.Generator], tuple[Frames, Sound]]


def _blurred(factor: int) -> Change:
    def change(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
        small = [Image.fromarray(f).resize((128 // factor,) * 2, Image.Resampling.BOX) for f in frames]
        return np.stack([np.asarray(one.resize((128, 128), Image.Resampling.BILINEAR)) for one in small]), sound

    return change


def _jpeg(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    made = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=10)
        made.append(np.asarray(Image.open(file).convert("RGB")))
    return np.stack(made), sound


def _grain(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    return np.clip(frames + random.normal(0, 10, frames.shape), 0, 255).astype(np.uint8), sound


def _frozen(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    return np.repeat(frames[:1], len(frames), axis=0), sound


def _shuffled(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    return frames[random.permutation(len(frames))], sound


def _flicker(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    shift = random.uniform(-20, 20, (len(frames), 1, 1, 1))
    return np.clip(frames + shift, 0, 255).astype(np.uint8), sound


def _noise(snr_db: float) -> Change:
    def change(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-snr_db / 20)
        return frames, np.clip(sound + random.normal(0, level, len(sound)), -1, 1).astype(np.float32)

    return change


def _low_pass(cut_hz: float) -> Change:
    taps = signal.butter(8, cut_hz, fs=SPEC.rate_hz, output="sos")

    def change(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
        return frames, signal.sosfilt(taps, sound).astype(np.float32)

    return change


def _smeared(frames: Frames, sound: Sound, random: np.random.Generator) -> tuple[Frames, Sound]:
    return frames, ndimage.uniform_filter1d(sound, 9).astype(np.float32)


VIDEO: dict[str, Change] = {
    "blur 2x": _blurred(2),
    "blur 4x": _blurred(4),
    "grain": _grain,
    "JPEG q10": _jpeg,
    "frozen": _frozen,
    "shuffled": _shuffled,
    "flicker": _flicker,
}
AUDIO: dict[str, Change] = {
    "noise 30 dB": _noise(30),
    "noise 10 dB": _noise(10),
    "low-pass 3 kHz": _low_pass(3000),
    "low-pass 1 kHz": _low_pass(1000),
    "smeared": _smeared,
}


def windows(folder: Path, each: int) -> list[tuple[Frames, Sound]]:
    """Windows of 2 s of every clip that has both streams, `each` a clip; silent ones are left out."""
    found = []
    with MediaSandbox() as sandbox:
        for path in sorted(folder.iterdir()):
            for number in range(each):
                try:
                    loaded = sandbox.load(path, SPEC, 2000 * number)
                except MediaError:
                    break
                if loaded.frames is not None and loaded.waveform is not None and np.mean(loaded.waveform**2) > 1e-6:
                    found.append((loaded.frames, loaded.waveform))
    return found


def write_set(folder: Path, clips: list[tuple[Frames, Sound]], change: Change | None) -> Path:
    """The clips after a change, as files."""
    for number, (frames, sound) in enumerate(clips):
        random = np.random.default_rng(number)
        made = (frames, sound) if change is None else change(frames, sound, random)
        write_clip(folder / f"{number:04d}.mp4", *made, SPEC.fps, SPEC.rate_hz)
    return folder


def measure(samples: Path, real: Path, protocol: Path, metrics: tuple[str, ...], workers: int) -> dict[str, Any]:
    """Values with intervals."""
    rules = read_protocol(str(protocol), metrics)
    found = evaluate(samples, real, rules, Options(workers=workers), progress=lambda *state: None)
    cells = found.table.cells["generated"]
    return {name: {"value": cells[name].value, "low": cells[name].low, "high": cells[name].high} for name in metrics}


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of every metric over the degradations that it can see; the floor's interval is shaded."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(11, 9), layout="constrained")
    for axis, name in zip(axes.flat, METRICS, strict=True):
        shown = [key for key in ("floor", *(AUDIO if "yamnet" in name else VIDEO)) if name in results[key]]
        values = [results[key][name]["value"] for key in shown]
        ends = [
            [abs(v - results[key][name][end]) for key, v in zip(shown, values, strict=True)] for end in ("low", "high")
        ]
        colours = ["#e0b23c", *["#2f6fd0"] * (len(shown) - 1)]
        axis.barh(shown, values, xerr=ends, color=colours, ecolor="#333333", capsize=2, zorder=2)
        floor = results["floor"][name]
        axis.axvspan(floor["low"], floor["high"], color="#e0b23c", alpha=0.25, zorder=0)
        axis.invert_yaxis()
        axis.set_title(name)
    figure.suptitle("Offline tier: distance of degraded real clips from real clips (95% interval over clips)")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=Path("degradation"))
    parser.add_argument("--windows", type=int, default=4, help="Windows of each clip, at most.")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    protocol = options.out / "protocol.toml"
    protocol.write_text(PROTOCOL + "".join(f'[[metrics]]\nname = "{name}"\n' for name in METRICS))
    clips = windows(options.clips, options.windows)
    even, odd = clips[0::2], clips[1::2]
    count = min(len(even), len(odd))
    print(f"{len(clips)} windows of 2 s; {count} in each half")
    real = write_set(options.out / "real", even[:count], None)
    results = {
        "floor": measure(write_set(options.out / "floor", odd[:count], None), real, protocol, METRICS, options.workers)
    }
    for title, change in {**VIDEO, **AUDIO}.items():
        metrics = tuple(name for name in METRICS if ("yamnet" in name) == (title in AUDIO))
        folder = write_set(options.out / title.replace(" ", "_"), odd[:count], change)
        results[title] = measure(folder, real, protocol, metrics, options.workers)
    (options.out / "degradation.json").write_text(json.dumps({"windows": count, "results": results}, indent=1))
    draw(results, options.out / "degradation.png")
    for title, found in results.items():
        print(f"{title:<16}", *(f"{name} {one['value']:.2f}" for name, one in found.items()), sep="  ")


if __name__ == "__main__":
    main()
