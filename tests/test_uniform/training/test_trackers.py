"""wandb and trackio, by fakes of exactly the calls that are made: init with these keywords, log(data, step), finish.

The fakes raise on any other keyword; that the real packages take these calls was tried by hand, offline.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.support.tiny_run import tiny_config
from uniform.errors import ConfigError, TrainingError
from uniform.training.reporting.trackers import WANDB_SETTINGS, shown_config
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.trainer import train


class FakeRun:
    def __init__(self, name: str) -> None:
        self.name, self.lines, self.finished, self.fails = name, list[tuple[int, dict[str, float]]](), False, False

    def log(self, data: dict[str, float], step: int) -> None:
        if self.fails:
            raise OSError("no route to host")
        self.lines.append((step, data))

    def finish(self) -> None:
        self.finished = True


class FakeTrackers:
    """Both modules; every `init` makes a run and remembers its configuration."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.configs: list[dict[str, Any]] = []

    def init_wandb(self, **options: Any) -> FakeRun:
        assert options.keys() == {"project", "id", "name", "dir", "resume", "config", "settings"}
        assert options["resume"] == "allow"
        assert options["settings"] == WANDB_SETTINGS
        assert Path(options["dir"]).name == options["name"]
        return self._begin(f"{options['project']}/{options['id']}", options["config"])

    def init_trackio(self, **options: Any) -> FakeRun:
        print("* Created new run")  # as trackio does, on standard output
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        assert options.keys() == {"project", "name", "resume", "config", *quiet}
        assert options.items() >= {"resume": "allow", **quiet}.items()
        return self._begin(f"{options['project']}/{options['name']}", options["config"])

    def _begin(self, name: str, config: dict[str, Any]) -> FakeRun:
        self.runs.append(FakeRun(name))
        self.configs.append(config)
        return self.runs[-1]


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> FakeTrackers:
    torch.set_num_threads(1)
    fakes = FakeTrackers()
    wandb, trackio = ModuleType("wandb"), ModuleType("trackio")
    vars(wandb).update(init=fakes.init_wandb, Settings=dict)
    vars(trackio).update(init=fakes.init_trackio, finish=lambda: fakes.runs[-1].finish())
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    return fakes


def words(root: Path) -> list[str]:
    source = f'{{folder="{root / "shards"}"}}'
    return [f"validation.sources=[{source}]", "validation.every=4", "validation.batches=1"]


def test_both_trackers_get_the_numbers_of_the_metrics_log(
    tmp_path: Path, trackers: FakeTrackers, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path, "run", "steps=8", 'log.trackers=["wandb", "trackio"]', *words(tmp_path)))
    metrics_log = read_metrics_log(tmp_path / "run")

    assert [run.finished for run in trackers.runs] == [True, True]
    for run in trackers.runs:
        windows = [(step, data) for step, data in run.lines if "window/loss" in data]
        assert [step for step, _ in windows] == [4, 8]
        for (step, data), line in zip(windows, [line for line in metrics_log if line["kind"] == "window"], strict=True):
            assert (step, data["window/loss"]) == (line["step"], line["loss"])
            assert data["window/grad_norm"] == line["grad_norm"]
            found = {key.removeprefix("window/losses/"): value for key, value in data.items() if "/losses/" in key}
            assert found == {name.replace(".", "/"): value for name, value in line["losses"].items()}
        checks = [data for _, data in run.lines if "window/loss" not in data]
        wanted = [line["losses"] for line in metrics_log if line["kind"] == "validation"]
        assert checks == [{f"validation/losses/{key}": value for key, value in losses.items()} for losses in wanted]
    assert capsys.readouterr().out == ""


def test_a_resumed_run_goes_on_in_the_same_tracker_run(tmp_path: Path, trackers: FakeTrackers) -> None:
    for steps in (4, 8):
        train(tiny_config(tmp_path, "run", f"steps={steps}", 'log.trackers=["wandb", "trackio"]', "log.project=worlds"))
    train(tiny_config(tmp_path, "other", "steps=4", 'log.trackers=["wandb", "trackio"]'))
    names = [run.name for run in trackers.runs]
    ids = json.loads((tmp_path / "run" / "trackers.json").read_bytes())

    assert names[:4] == 2 * [f"worlds/{ids['wandb']}", f"worlds/run-{ids['trackio']}"]
    assert len(set(names)) == 4


def test_no_folder_or_address_is_sent(tmp_path: Path, trackers: FakeTrackers) -> None:
    config = tiny_config(tmp_path, "run", "steps=4", 'log.trackers=["wandb"]', *words(tmp_path))
    train(config)

    (sent,) = trackers.configs
    assert sent == shown_config(config)
    assert sent["optimiser.learning_rate"] == config.optimiser.learning_rate
    assert sent["data.global_batch"] == 4
    assert str(tmp_path) not in json.dumps([sent, trackers.runs[0].lines])
    assert trackers.runs[0].lines[0][1]["window/epochs/0"] == pytest.approx(4 * 4 / 18, abs=0.06)


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, trackers: FakeTrackers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin = trackers._begin

    def begin_failing(name: str, config: dict[str, Any]) -> FakeRun:
        run = begin(name, config)
        run.fails = True
        return run

    monkeypatch.setattr(trackers, "_begin", begin_failing)
    result = train(tiny_config(tmp_path, "run", "steps=12", 'log.trackers=["wandb"]'))

    assert result.finished
    assert caplog.text.count("wandb: no route to host; it gets no more numbers") == 1


def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    with pytest.raises(TrainingError, match=r'pip install "uniform-toolkit\[wandb\]"'):
        train(tiny_config(tmp_path, "run", "steps=4", 'log.trackers=["wandb"]'))


def test_a_tracker_that_does_not_start_ends_with_a_message(
    tmp_path: Path, trackers: FakeTrackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_login(name: str, config: dict[str, Any]) -> FakeRun:
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(trackers, "_begin", no_login)
    with pytest.raises(TrainingError, match=r"wandb did not start \(RuntimeError: No API key configured\)"):
        train(tiny_config(tmp_path, "run", "steps=4", 'log.trackers=["wandb"]'))


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        tiny_config(tmp_path, "run", 'log.trackers=["wandbb"]')
