"""Draws the curves of a run as one image from its metrics.jsonl, without a display."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uniform.atomic import replacing
from uniform.tasks import MODALITIES, Task
from uniform.training.saving.run_folder import read_metrics_log

CURVE_NAME = "curve.png"
SMOOTH_STEPS = 50


def draw_curve(folder: Path) -> Path | None:
    """Write <folder>/curve.png: loss, losses by task and modality, gradient norm, loss over diffusion time.

    Returns: its path, or None where no step has been written down yet.
    """
    steps = [line for line in read_metrics_log(folder, "step") if line["loss"] is not None]
    if not steps:
        return None
    windows = read_metrics_log(folder, "window")
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (total, tasks), (norms, times) = figure.subplots(2, 2)
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
