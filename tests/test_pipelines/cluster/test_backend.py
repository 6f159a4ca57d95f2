"""Units on Ray: the same results as in one process, and workers that die, hang on bugs, or cannot be had."""

import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.clip import Clip
from pipelines.run.commits import Commit
from pipelines.run.job import Run, new_run
from pipelines.run.pipeline import InlineBackend, LogListener, RunResult, run_pipeline
from pipelines.run.units import in_order
from pipelines.stage import Resources
from tests.support.fake_stages import Cut, Look, fake_run, recipe, results, rows
from tests.support.paths import ROOT
from uniform.errors import PipelineError
from uniform.spec import TOY
from uniform.synthetic.write import write_world

TOY_RECIPE = ROOT / "data_manifests" / "recipes" / "toy.toml"
pytestmark = pytest.mark.ray


def on_ray(run: Run, workers: int = 2) -> RunResult:
    from pipelines.cluster.backend import RayBackend

    with RayBackend(workers=workers) as engine:
        return run_pipeline(run, engine, LogListener())


@pytest.fixture(autouse=True)
def _connected(ray_address: str) -> None:
    """Every test here works on the shared instance."""


def test_a_clip_that_kills_workers_is_found_and_rejected_and_the_rest_of_its_unit_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = rows(20)[5].clip_id
    caplog.set_level(logging.WARNING)

    result = on_ray(
        fake_run(tmp_path / "out", made=recipe(cut=Cut(kills=(victim,), reject_every=None), look=Look(floor=0)))
    )

    assert result.final.codes == {"worker_crash": 1, "ok": 19}
    ledger = pq.read_table(tmp_path / "out" / "ledger" / "cut").to_pylist()
    (found,) = [row for row in ledger if row["code"] == "worker_crash"]
    assert (found["clip_id"], found["status"], found["permanent"]) == (victim, "rejected", True)
    assert sum("its worker died (" in line for line in caplog.messages) == 3
    assert sum(f"at clip {victim} alone; the clip is tried again in a fresh worker" in m for m in caplog.messages) == 2
    others = pq.read_table(tmp_path / "out" / "index.parquet")["clip_id"].to_pylist()
    assert sorted([*others, victim]) == sorted(row.clip_id for row in rows(20))


def test_a_bug_on_ray_is_named_and_other_units_are_kept(tmp_path: Path) -> None:
    clip_id = rows(20)[3].clip_id

    with pytest.raises(PipelineError) as stopped:
        on_ray(fake_run(tmp_path, made=recipe(cut=Cut(raises=clip_id))))

    for part in ("stage 'cut', unit 1", clip_id, "ZeroDivisionError", "fake_stages.py"):
        assert part in str(stopped.value)
    assert not (tmp_path / "commits" / "cut" / "000001.json").exists()
    result = on_ray(fake_run(tmp_path))
    assert result.units_found >= 1


@dataclass(frozen=True, kw_only=True)
class Patient(Cut):
    """A stage that does no clip, but the one at which it fails, before a file is there."""

    gate: str
    longest_s: float = 30.0

    def _one(self, clip: Clip) -> Clip:
        ends = time.monotonic() + self.longest_s
        while clip.row.clip_id != self.raises and not Path(self.gate).exists() and time.monotonic() < ends:
            time.sleep(0.02)
        return super()._one(clip)


class Diary(LogListener):
    """Keeps events in order, and opens a gate with the first warning."""

    def __init__(self, gate: Path) -> None:
        self.events: list[str] = []
        self._gate = gate

    def unit_done(self, commit: Commit) -> None:
        self.events.append("unit done")

    def warn(self, text: str) -> None:
        self.events.append(text)
        self._gate.touch()


def test_a_fatal_error_is_shown_before_the_units_in_progress_have_ended(tmp_path: Path) -> None:
    from pipelines.cluster.backend import RayBackend

    victim, gate = in_order(row.clip_id for row in rows(12))[0], tmp_path / "gate"
    run = fake_run(tmp_path / "out", clips=12, made=recipe(cut=Patient(raises=victim, gate=str(gate))))
    diary = Diary(gate)

    with pytest.raises(PipelineError, match="ZeroDivisionError"), RayBackend(workers=2) as engine:
        run_pipeline(run, engine, diary)

    first, *later = diary.events
    assert first.startswith("the run stops: no new unit is started, and 1 units in progress end first. ")
    assert all(part in first for part in ("stage 'cut', unit 0", victim, "ZeroDivisionError"))
    assert later == ["unit done"]


@dataclass(frozen=True, kw_only=True)
class Hungry(Cut):
    """A stage that wants more than any test machine has."""

    resources = Resources(cpus=0.1, gpus=64)


def test_resources_that_the_cluster_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"stage 'cut' needs 1 cores, 64 accelerators for one worker, but Ray has"):
        on_ray(fake_run(tmp_path, made=recipe(cut=Hungry())))


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pipelines.cluster.backend import RayBackend

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    message = r"Ray did not start \(\[Errno 111\] Connection refused\).*--inline"
    with RayBackend(address="127.0.0.1:1") as engine, pytest.raises(PipelineError, match=message):
        run_pipeline(fake_run(tmp_path), engine, LogListener())


def test_workers_must_be_one_or_more() -> None:
    from pipelines.cluster.backend import RayBackend

    with pytest.raises(PipelineError, match="--workers is 0"):
        RayBackend(workers=0)


def markers(out: Path) -> list[Path]:
    """Commit markers under their final name; one that is being written does not count."""
    return list((out / "commits").rglob("[0-9]*.json"))


@pytest.mark.parametrize("moment", [9])
def test_the_real_stages_killed_inline_and_ended_on_ray_give_the_same_bytes(moment: int, tmp_path: Path) -> None:
    """Media files past their rows, through fetch, clip, check, caption, text and encode: seven stages, three units."""
    manifest = write_world("w1", TOY, tmp_path / "world", train_clips=5, test_clips=1, seed=3)
    small = tmp_path / "small.toml"
    small.write_text(TOY_RECIPE.read_text().replace("unit_clips = 8", "unit_clips = 2"))
    there = run_pipeline(new_run([manifest], small, tmp_path / "peace"), InlineBackend(), LogListener())

    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "pipeline",
        "run",
        manifest,
        "--recipe",
        small,
        "--out",
        out,
        "--inline",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as driver:
        while len(markers(out)) < moment:
            assert driver.poll() is None
            time.sleep(0.005)
        driver.kill()
    found = len(markers(out))
    again = on_ray(new_run([manifest], small, out))

    assert (there.final.kept, there.indexed) == (6, 6)
    assert moment <= found < 21
    assert (again.units_found, again.units_made) == (found, 21 - found)
    assert results(out) == results(tmp_path / "peace")
