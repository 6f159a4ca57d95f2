"""Metrics of background samples: measured aside, logged with N and interval, shown in the curve and to observers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_evaluation import write_clips
from uniform.errors import ConfigError
from uniform.training.reporting.curve import draw_curve, read_sample_metrics
from uniform.training.sample_metrics import SampleMetrics
from uniform.training.settings.config import ValidationConfig


class Listener:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def validated(self, step: int, losses: dict[str, float]) -> None:
        self.seen[step] = losses


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_clips(tmp_path / "real", 5)
    for number, step in enumerate(("step-00000010", "step-00000020")):
        for path in write_clips(tmp_path / f"made-{number}", 5, noise=10 + 40 * number):
            target = tmp_path / "run" / "samples" / f"{step}-{path.stem}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    return tmp_path / "run"


def _metrics(run: Path, names: tuple[str, ...] = ("av_align_brightness_v2", "kad_yamnet")) -> tuple[SampleMetrics, Any]:
    made = SampleMetrics(ValidationConfig(metrics=names, real=run.parent / "real"), run)
    listener = Listener()
    made.listeners = [listener]  # type: ignore[list-item]
    return made, listener


def test_each_checkpoint_s_samples_are_measured_and_logged(run: Path) -> None:
    made, listener = _metrics(run)
    for step in ("step-00000020", "step-00000010"):
        made.measure(step)
        made.finish()

    lines = read_sample_metrics(run)
    assert [line["step"] for line in lines] == [10, 20]
    cells = [line["metrics"]["kad_yamnet"] for line in lines]
    assert all(cell["clips"] == 5 and cell["low"] <= cell["value"] <= cell["high"] for cell in cells)
    assert cells[0]["value"] < cells[1]["value"]  # more noise
    seen = listener.seen[20]
    assert seen["metrics/kad_yamnet"] == cells[1]["value"]
    assert seen["metrics/kad_yamnet_n"] == 5
    assert {"metrics/kad_yamnet_low", "metrics/kad_yamnet_high"} <= set(seen)

    made.measure("step-00000020")
    made.finish()
    assert read_sample_metrics(run) == lines  # measured again, not listed twice


def test_what_cannot_be_measured_is_a_warning_and_no_number(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, listener = _metrics(run, ("kad_passt",))
    made.measure("step-00000010")
    made.finish()

    assert not listener.seen
    assert any("could not be measured" in message for message in caplog.messages)
    assert "passt" in (run / "metrics" / "evaluate.log").read_text()


def test_the_curve_shows_metrics_beside_losses(run: Path) -> None:
    step = {"kind": "step", "step": 1, "loss": 1.0, "grad_norm": 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    plain = draw_curve(run)
    assert plain is not None
    without = plain.stat().st_size
    cell = {"value": 2.0, "low": 1.0, "high": 3.0, "clips": 5}
    (run / "sample_metrics.jsonl").write_text(json.dumps({"step": 1, "metrics": {"kad_yamnet": cell}}) + "\n")

    with_metrics = draw_curve(run)

    assert with_metrics is not None
    assert with_metrics.stat().st_size > without


def test_metrics_want_real_clips(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation\.real"):
        ValidationConfig(metrics=("kad_yamnet",))
    with pytest.raises(ConfigError, match="the real clips that metrics compare with"):
        SampleMetrics(ValidationConfig(metrics=("kad_yamnet",), real=tmp_path / "nowhere"), tmp_path)
