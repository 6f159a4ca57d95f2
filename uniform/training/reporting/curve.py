"""Draws the curves of a run as one image from its metrics.jsonl, without a display."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uniform.atomic import replacing
from uniform.tasks import MODALITIES, Task
from uniform.training.saving.run_folder import read_metrics_log

CURVE_NAME = "curve.png"
SAMPLE_METRICS_NAME = "sample_metrics.jsonl"
SMOOTH_STEPS = 50


def draw_curve(folder: Path) -> Path | None:
    """Write <folder>/curve.png: loss, losses by task and modality, gradient norm, loss over diffusion time.

    Returns: its path, or None where no step has been written down yet.
    """
    steps = [line for line in read_metrics_log(folder, "step") if line["loss"] is not None]
    if not steps:
        return None
    windows = read_metrics_log(folder, "window")
    measured = read_sample_metrics(folder)
    figure = Figure(figsize=(12, 10 if measured else 7), layout="constrained")
    FigureCanvasAgg(figure)
    total, tasks, norms, times, *more = figure.subplots(3 if measured else 2, 2).flat
    if measured:
        _draw_metrics(more[0], measured)
        more[1].remove()
    _draw_total(total, steps, read_metrics_log(folder, "validation"))
    for task in Task:
        for modality in MODALITIES:
            name = f"{task}/{modality}_mse"
            points = [(line["step"], line["losses"][name]) for line in windows if name in line["losses"]]
            if points:
                tasks.plot(*zip(*points, strict=True), label=name, linewidth=1)
    tasks.set(title="by task and modality", xlabel="step", yscale="log")
    norms.plot([line["step"] for line in steps], [line["grad_norm"] for line in steps], linewidth=0.7, color="tab:gray")
    norms.set(title="gradient norm before clipping", xlabel="step", yscale="log")
    if windows:
        for modality in MODALITIES:
            name = f"{modality}/time_"
            bins = {int(key.removeprefix(name)): v for key, v in windows[-1]["losses"].items() if key.startswith(name)}
            times.plot(sorted(bins), [bins[place] for place in sorted(bins)], marker="o", label=modality)
    times.set(title="last window by diffusion time (bin 0 is nearly clean)", xlabel="bin")
    for axes in (total, tasks, times):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    path = folder / CURVE_NAME
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return path


def read_sample_metrics(folder: Path) -> list[dict[str, Any]]:
    """Metrics of background samples by step, ascending; empty where there are none."""
    path = folder / SAMPLE_METRICS_NAME
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def _draw_metrics(axes: Any, measured: list[dict[str, Any]]) -> None:
    """Each metric over the steps with its 95% interval, as a share of its largest value."""
    names = dict.fromkeys(name for line in measured for name in line["metrics"])
    for name in names:
        points = [(line["step"], line["metrics"].get(name, {})) for line in measured]
        points = [(step, cell) for step, cell in points if cell.get("value") is not None]
        if points:
            scale = max(abs(cell["value"]) for _, cell in points) or 1.0
            ends = [[_gap(cell, end) / scale for _, cell in points] for end in ("low", "high")]
            label = f"{name}, N {points[-1][1]['clips']}, 1 = {scale:.3g}"
            values = [cell["value"] / scale for _, cell in points]
            axes.errorbar([step for step, _ in points], values, yerr=ends, marker=".", capsize=2, label=label)
    axes.set(title="metrics of samples, share of the largest", xlabel="step")
    axes.legend(fontsize=8)


def _gap(cell: dict[str, Any], end: str) -> float:
    return 0.0 if cell.get(end) is None else abs(float(cell["value"]) - float(cell[end]))


def _draw_total(axes: Any, steps: list[dict[str, Any]], validations: list[dict[str, Any]]) -> None:
    x = np.array([line["step"] for line in steps])
    y = np.array([line["loss"] for line in steps], dtype=np.float64)
    axes.plot(x, y, linewidth=0.5, alpha=0.4, color="tab:blue")
    width = min(SMOOTH_STEPS, len(y))
    smooth = np.convolve(y, np.ones(width) / width, mode="valid")
    axes.plot(x[width - 1 :], smooth, color="tab:blue", label=f"loss, mean of {width} steps")
    if validations:
        means = [sum(line["losses"].values()) / len(Task) for line in validations]
        axes.plot([line["step"] for line in validations], means, color="tab:red", marker=".", label="validation (EMA)")
    axes.set(title="loss", xlabel="step", yscale="log")
