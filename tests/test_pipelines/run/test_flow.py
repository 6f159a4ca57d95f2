"""Units flow through the stages: the order of the work, barriers, limits of a recipe, and signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import tables
from pipelines.recipe import Recipe, read_recipe
from pipelines.run.commits import Commit
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.stopping import RunInterruptedError
from pipelines.schedule import Schedule
from tests.support.fake_stages import Cut, Say, fake_run, recipe, results
from tests.support.paths import ROOT
from uniform.errors import ConfigError, PipelineError


class Order(LogListener):
    """Keeps the order of the commits."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, int]] = []
        self.ended: list[str] = []

    def unit_done(self, commit: Commit) -> None:
        self.jobs.append((commit.stage, commit.unit))

    def stage_ended(self, stage: str, tally: object, seconds: float) -> None:
        self.ended.append(stage)


@dataclass(frozen=True, kw_only=True)
class SayWhenAllAreCut(Say):
    """A stage that needs all units."""

    scope = "all"


def barrier() -> Recipe:
    return recipe(say=SayWhenAllAreCut())


def test_inline_brings_a_unit_to_its_end_before_the_next_begins(tmp_path: Path) -> None:
    order = Order()
    run = fake_run(tmp_path, 20)

    run_pipeline(run, InlineBackend(), order)

    names = run.recipe.names
    assert order.jobs == [(stage, unit) for unit in range(4) for stage in names]
    assert order.ended == list(names)


def test_a_barrier_gives_the_same_bytes_in_another_order(tmp_path: Path) -> None:
    order = Order()
    run = fake_run(tmp_path / "barrier", 20, barrier())
    run_pipeline(run, InlineBackend(), order)
    run_pipeline(fake_run(tmp_path / "flow", 20), InlineBackend(), LogListener())

    place = run.recipe.names.index("say")
    before = [job for job in order.jobs if job[0] in run.recipe.names[:place]]
    assert order.jobs[: len(before)] == before
    assert len(before) == 4 * place
    assert results(tmp_path / "barrier") == results(tmp_path / "flow")


def test_the_plan_names_a_barrier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_plan(fake_run(tmp_path, 20, barrier()), None)
    assert "barrier: 'say' begins when every unit has passed the stage before it" in capsys.readouterr().out
    tables.show_plan(fake_run(tmp_path, 20), None)
    assert "barrier" not in capsys.readouterr().out


def test_limits_of_a_recipe_are_read_and_change_no_byte(tmp_path: Path) -> None:
    text = (ROOT / "data_manifests" / "recipes" / "toy.toml").read_text()
    path = tmp_path / "limits.toml"
    path.write_text(
        text.replace("[[stage]]", "[schedule]\nmax_units_in_flight = 3\nmax_workers = { check = 2 }\n\n[[stage]]", 1)
    )

    found = read_recipe(path)

    assert found.schedule == Schedule(max_units_in_flight=3, max_workers={"check": 2})
    assert found.steps == read_recipe("toy").steps


def test_a_limit_of_a_stage_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = (ROOT / "data_manifests" / "recipes" / "toy.toml").read_text()
    path = tmp_path / "limits.toml"
    path.write_text(text.replace("[[stage]]", "[schedule]\nmax_workers = { chek = 2 }\n\n[[stage]]", 1))

    with pytest.raises(ConfigError, match=r"schedule\.max_workers names 'chek', but the stages are check_rows"):
        read_recipe(path)


class Signals(Order):
    """Sends a signal to this process after the first commit."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self._number = number

    def unit_done(self, commit: Commit) -> None:
        super().unit_done(commit)
        if len(self.jobs) == 1:
            os.kill(os.getpid(), self._number)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_a_clean_state_and_the_same_call_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    listener = Signals(number)
    before = signal.getsignal(number), signal.getsignal(signal.SIGALRM)

    with pytest.raises(RunInterruptedError, match=f"stopped by {number.name} after 1 units") as stopped:
        run_pipeline(fake_run(tmp_path / "run"), InlineBackend(), listener)

    assert stopped.value.exit_code == 128 + number
    assert listener.warnings == [f"{number.name}: no new unit begins; units in progress have 20 s to end"]
    assert (signal.getsignal(number), signal.getsignal(signal.SIGALRM)) == before
    again = run_pipeline(fake_run(tmp_path / "run"), InlineBackend(), LogListener())
    run_pipeline(fake_run(tmp_path / "peace"), InlineBackend(), LogListener())
    assert again.units_found == 1
    assert results(tmp_path / "run") == results(tmp_path / "peace")


def test_units_that_do_not_end_are_given_up_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.run.stopping.DRAIN_S", 0.3)
    slow = recipe(cut=Cut(pause_s=60.0))
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()

    with pytest.raises(RunInterruptedError, match="stopped by SIGTERM after 0 units"):
        run_pipeline(fake_run(tmp_path, made=slow), InlineBackend(), LogListener())

    assert time.monotonic() - began < 10
    assert not list(tmp_path.rglob(".tmp-*"))


def test_the_command_exits_with_143_and_two_lines_after_sigterm(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from cli import main, console; import pipelines.run.pipeline as p\n"
        "from tests.support.fake_stages import fake_run\n"
        "from pathlib import Path\n"
        "import cli.pipeline, typer\n"
        "class Kill(p.LogListener):\n"
        "    def unit_done(self, commit): os.kill(os.getpid(), signal.SIGTERM)\n"
        "@main.app.command('fakes')\n"
        "def fakes():\n"
        f"    p.run_pipeline(fake_run(Path({str(tmp_path)!r})), p.InlineBackend(), Kill())\n"
        "sys.argv = ['uniform', 'fakes']; main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 143, done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 2, done.stderr
    assert "SIGTERM: no new unit begins" in lines[0]
    assert lines[1].startswith("error: stopped by SIGTERM after 1 units. What is committed counts")


def test_stale_units_end_the_run_and_are_made_again_on_demand(tmp_path: Path) -> None:
    run_pipeline(fake_run(tmp_path / "run"), InlineBackend(), LogListener())
    changed = recipe(cut=Cut(reject_every=3))
    with pytest.raises(PipelineError, match="units are stale"):
        run_pipeline(fake_run(tmp_path / "run", made=changed), InlineBackend(), LogListener())

    run_pipeline(fake_run(tmp_path / "run", made=changed), InlineBackend(), LogListener(), replace_stale=True)

    run_pipeline(fake_run(tmp_path / "new", made=changed), InlineBackend(), LogListener())
    assert results(tmp_path / "run") == results(tmp_path / "new")
