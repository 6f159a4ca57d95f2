"""`uniform train --samples`: samples aside, from the command to the gallery."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from tests.support.tiny_run import tiny_overrides
from uniform.errors import InputError
from uniform.training.background_sampling import BackgroundSampling

runner = CliRunner()


class Child:
    """Stands for `uniform sample`."""

    made: list["Child"]
    busy = False
    code = 0

    def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
        self.command, self.env, self.ended = command, env, ""
        Child.made.append(self)

    def poll(self) -> int | None:
        return None if Child.busy and not self.ended else Child.code

    def wait(self) -> int:
        self.ended = self.ended or "waited for"
        return Child.code

    def terminate(self) -> None:
        self.ended = "terminated"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    Child.made, Child.busy, Child.code = [], False, 0
    monkeypatch.setattr("uniform.training.background_sampling.subprocess.Popen", Child)
    torch.set_num_threads(1)
    return Child.made


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a ball hits the wall\n")
    return path


def steps_of(children: list[Child]) -> list[str]:
    return [child.command[child.command.index("--name") + 1] for child in children]


def test_samples_are_made_by_a_background_process(
    tmp_path: Path,
    prompts: Path,
    children: list[Child],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    Child.code = 3
    words = [*tiny_overrides(tmp_path, "run", "steps=4", "checkpoint.every=2"), "--samples", str(prompts)]
    result = runner.invoke(app, ["train", "toy", *words])

    assert result.exit_code == 0, result.output
    assert steps_of(children) == ["step-00000002", "step-00000004"]
    assert children[0].command[2:4] == ["cli.main", "sample"]
    assert str(tmp_path / "run" / "checkpoints" / "step-00000002") in children[0].command
    assert str(tmp_path / "run" / "samples") in children[0].command
    assert "LOCAL_RANK" not in children[0].env
    assert any("sampling from the last checkpoint failed" in message for message in caplog.messages)


def aside(tmp_path: Path, prompts: Path, every: int, steps: int, why: str) -> None:
    watcher = BackgroundSampling(prompts, tmp_path / "run", every)
    watcher.started({})
    for step in range(1, steps + 1):
        watcher.saved(tmp_path / f"step-{step:08d}")
    watcher.ended(steps, why)


def test_steps_lie_between_two_sampled_checkpoints(tmp_path: Path, prompts: Path, children: list[Child]) -> None:
    aside(tmp_path, prompts, every=3, steps=7, why="finished")

    assert steps_of(children) == [f"step-{step:08d}" for step in (1, 4, 7)]


def test_checkpoints_pass_while_samples_are_made_but_for_the_last(
    tmp_path: Path, prompts: Path, children: list[Child]
) -> None:
    Child.busy = True
    aside(tmp_path, prompts, every=1, steps=5, why="finished")

    assert steps_of(children) == ["step-00000001", "step-00000005"]
    assert [child.ended for child in children] == ["waited for", "waited for"]


def test_a_run_asked_to_stop_does_not_wait_for_samples(tmp_path: Path, prompts: Path, children: list[Child]) -> None:
    Child.busy = True
    aside(tmp_path, prompts, every=1, steps=5, why="stopped by signal")

    assert [child.ended for child in children] == ["terminated"]


def test_a_missing_file_of_prompts_is_refused_before_the_run(tmp_path: Path) -> None:
    result = runner.invoke(
        app, ["train", "toy", *tiny_overrides(tmp_path, "run"), "--samples", str(tmp_path / "none.txt")]
    )

    assert result.exit_code == 1
    assert "no such file of prompts" in result.output
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError):
        BackgroundSampling(tmp_path / "none.txt", tmp_path, 1)


def test_an_interval_without_prompts_is_refused(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "toy", *tiny_overrides(tmp_path, "run"), "--samples-every", "5"])

    assert result.exit_code == 1
    assert "--samples-every goes with --samples" in result.output


class Metrics:
    """Stands for `SampleMetrics`."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.ended = ""
        self.listeners: object = ()

    def measure(self, name: str) -> None:
        self.measured.append(name)

    def poll(self) -> None:
        pass

    def finish(self) -> None:
        self.ended = "finished"

    def stop(self) -> None:
        self.ended = "stopped"


@pytest.mark.parametrize(
    ("code", "why", "measured", "ended"),
    [
        (0, "finished", ["step-00000001", "step-00000002"], "finished"),
        (3, "finished", [], "finished"),
        (0, "stopped by signal", ["step-00000001"], "stopped"),
    ],
)
def test_finished_samples_are_measured_once(
    tmp_path: Path, prompts: Path, children: list[Child], code: int, why: str, measured: list[str], ended: str
) -> None:
    Child.code = code
    metrics = Metrics()
    watcher = BackgroundSampling(prompts, tmp_path / "run", 1, metrics)  # type: ignore[arg-type]
    watcher.report_to([])
    watcher.started({})
    watcher.saved(tmp_path / "run" / "checkpoints" / "step-00000001")
    for _ in range(2):
        watcher.progressed(None)  # type: ignore[arg-type]
    if code == 0 and why != "finished":
        watcher.ended(1, why)
    else:
        watcher.saved(tmp_path / "run" / "checkpoints" / "step-00000002")
        watcher.ended(2, why)

    assert metrics.measured == measured
    assert metrics.ended == ended
