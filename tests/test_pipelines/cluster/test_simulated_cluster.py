"""Runs on a cluster of several raylets: nodes that die, join, lack the package, or see another run directory."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.clip import Clip
from pipelines.recipe import Recipe, make_recipe
from pipelines.run.commits import Commit
from pipelines.run.job import Run, make_run
from pipelines.run.pipeline import InlineBackend, LogListener, RunResult, run_pipeline
from pipelines.schedule import Schedule
from tests.support.fake_stages import Cut, Encode, fake_run, recipe, results, rows
from tests.support.simulated_cluster import (
    SimulatedCluster,
    Sleep,
    broken_environment,
    kill_raylet,
    simulated_cluster,
)
from uniform.errors import PipelineError
from uniform.spec import TOY

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WATCHDOG_S = 120.0
NO_PACKAGE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "pipelines" or name.startswith("pipelines."):
            raise ModuleNotFoundError(f"No module named '{name}'")
sys.meta_path.insert(0, Missing())
"""
OTHER_VERSION = "import uniform; uniform.__version__ = '0.0.1'"
OTHER_MOUNT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
    raise SystemExit("no mounts here")
libc.mount(b"tmpfs", {folder!r}.encode(), b"tmpfs", 0, b"size=1g")
"""
FULL_DISK = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
    raise SystemExit("no mounts here")
libc.mount(b"tmpfs", {folder!r}.encode(), b"tmpfs", 0, b"size=1m")
tempfile.tempdir = {folder!r}
"""


@pytest.fixture(scope="module", autouse=True)
def _own_ray() -> Iterator[None]:
    """These tests need clusters of their own: leave the shared instance, and let it come back."""
    import ray

    if ray.is_initialized():
        pytest.skip("this process is connected to the shared instance; run this file on its own")
    return


class Diary(LogListener):
    """Keeps commits and warnings, and calls a function after each commit."""

    def __init__(self, after: Callable[[int], None] = lambda _: None) -> None:
        self.commits: list[Commit] = []
        self.times_s: list[float] = []
        self.warnings: list[str] = []
        self._after = after

    def unit_done(self, commit: Commit) -> None:
        self.commits.append(commit)
        self.times_s.append(time.monotonic())
        self._after(len(self.commits))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Joined(Diary):
    """Adds a node at the first warning. Ray starts nodes from the main thread only."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def warn(self, text: str) -> None:
        super().warn(text)
        if len(self.warnings) == 1:
            self._cluster.add()


def on_cluster(run: Run, cluster: SimulatedCluster, listener: LogListener, workers: int | None = None) -> RunResult:
    """The run on a cluster. A run that hangs ends by the alarm of the test."""
    from pipelines.cluster.backend import RayBackend

    with RayBackend(address=cluster.address, workers=workers) as engine:
        return run_pipeline(run, engine, listener)


def ended(what: Callable[[], RunResult], within_s: float = WATCHDOG_S) -> RunResult:
    """The result of a call in the main thread; a call that takes too long is interrupted and fails the test."""
    import _thread

    timer = threading.Timer(within_s, _thread.interrupt_main)
    timer.start()
    try:
        return what()
    except KeyboardInterrupt:
        raise AssertionError(f"the run did not end within {within_s:g} s") from None
    finally:
        timer.cancel()


def slow(pause_s: float = 0.05) -> Recipe:
    """The fake stages, with a pause for each clip."""
    return recipe(cut=Cut(pause_s=pause_s), encode=Encode())


def peace(tmp_path: Path, clips: int, made: Recipe) -> dict[str, bytes]:
    """The bytes of an undisturbed inline run."""
    run_pipeline(fake_run(tmp_path / "peace", clips, made), InlineBackend(), LogListener())
    return results(tmp_path / "peace")


def test_two_of_three_nodes_die_and_one_joins_and_no_clip_pays(tmp_path: Path) -> None:
    wanted = peace(tmp_path, 48, slow())
    with simulated_cluster((1, 0), (1, 0), (1, 0)) as cluster:

        def disturb(commits: int) -> None:
            if commits in (6, 14):
                kill_raylet(cluster.nodes[0])
                cluster.nodes.pop(0)
            if commits == 15:
                cluster.add()

        diary = Diary(disturb)
        result = ended(lambda: on_cluster(fake_run(tmp_path / "run", 48, slow()), cluster, diary))

    assert result.final.codes.get("worker_crash", 0) == 0
    assert results(tmp_path / "run") == wanted
    assert not any("is dropped" in text for text in diary.warnings)
    assert len([text for text in diary.warnings if "node" in text or "reach" in text]) <= 6


def test_a_node_that_joins_in_mid_run_is_used_within_ten_seconds(tmp_path: Path) -> None:
    made = slow(0.25)
    joined: list[float] = []
    with simulated_cluster((1, 0)) as cluster:

        def join(commits: int) -> None:
            if commits == 2:
                cluster.add()
                joined.append(time.monotonic())

        diary = Diary(join)
        ended(lambda: on_cluster(fake_run(tmp_path / "run", 72, made), cluster, diary))

    old = diary.commits[0].worker
    new = [at for commit, at in zip(diary.commits, diary.times_s, strict=True) if commit.worker != old]
    assert new
    assert new[0] - joined[0] < 10 + 6 * 0.25
    assert len(new) >= 0.25 * (len(diary.commits) - 2)


def test_a_cluster_without_a_core_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.dispatch.STALL_S", 2.0)
    with simulated_cluster() as cluster:
        diary = Joined(cluster)
        result = ended(lambda: on_cluster(fake_run(tmp_path, 12), cluster, diary))

    assert result.final.clips == 12
    assert any("no progress for" in text and "that Ray has not placed" in text for text in diary.warnings)


def test_a_foreign_actor_holds_a_core_and_the_run_ends_on_the_other(tmp_path: Path) -> None:
    import ray

    with simulated_cluster((1, 0), (1, 0)) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        holder = ray.remote(num_cpus=1)(_Holder).remote()
        ray.get(holder.here.remote())
        result = ended(lambda: on_cluster(fake_run(tmp_path, 20), cluster, Diary()))

    assert result.final.clips == 20


class _Holder:
    def here(self) -> bool:
        return True


def test_eight_accelerators_hold_one_encode_worker_each(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    stages = [
        ("clip", Sleep(name="clip", pause_s=0.02)),
        ("encode", Sleep(name="encode", pause_s=0.4, device="auto", seen=str(seen))),
    ]
    made = make_recipe("cards", TOY, 2, stages, Schedule(max_units_in_flight=40))
    with simulated_cluster((10, 8)) as cluster:
        ended(lambda: on_cluster(make_run(rows(80), made, tmp_path / "run"), cluster, Diary()))

    devices = sorted(path.read_text() for path in seen.glob("encode-*"))
    assert devices == [str(number) for number in range(8)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (NO_PACKAGE, "the package cannot be imported there (ModuleNotFoundError: No module named 'pipelines"),
        (OTHER_VERSION, "it has version 0.0.1 of the package"),
        (OTHER_MOUNT, "it does not share the run directory"),
        (FULL_DISK, "MB free in"),
    ],
    ids=["package", "version", "mount", "disk"],
)
def test_a_bad_node_is_named_and_left_out_and_the_result_is_right(code: str, reason: str, tmp_path: Path) -> None:
    if "mount" in code and os.geteuid() != 0:
        pytest.skip("only root can mount")
    wanted = peace(tmp_path, 24, slow(0.02))
    other = tmp_path / "tmp"
    other.mkdir()
    (tmp_path / "runs").mkdir()
    folder = other if code == FULL_DISK else tmp_path / "runs"
    environment = broken_environment(tmp_path / "site", code.replace("{folder!r}", repr(str(folder))))
    with simulated_cluster((1, 0)) as cluster:
        cluster.add(environment=environment)
        diary = Diary()
        result = ended(lambda: on_cluster(fake_run(tmp_path / "runs" / "run", 24, slow(0.02)), cluster, diary))

    assert result.final.codes.get("worker_crash", 0) == 0
    assert results(tmp_path / "runs" / "run") == wanted
    assert any("is left out" in text and reason in text for text in diary.warnings), diary.warnings


def test_a_cluster_of_bad_nodes_alone_ends_the_run_with_their_names(tmp_path: Path) -> None:
    with simulated_cluster() as cluster:
        cluster.add(environment=broken_environment(tmp_path / "site", NO_PACKAGE))
        with pytest.raises(PipelineError, match="no node of the cluster can be used"):
            ended(lambda: on_cluster(fake_run(tmp_path / "run", 12), cluster, Diary()), within_s=60)

    assert not list((tmp_path / "run").rglob("ledger/*/*.parquet"))


def test_a_stage_that_hangs_is_ended_and_the_unit_is_done_again(tmp_path: Path) -> None:
    gate = tmp_path / "hung-once"
    made = make_recipe("hang", TOY, 6, [("cut", _HangsOnce(gate=str(gate)))], Schedule(stage_timeout_s={"cut": 2.0}))
    with simulated_cluster((1, 0)) as cluster:
        diary = Diary()
        result = ended(lambda: on_cluster(make_run(rows(12), made, tmp_path / "run"), cluster, diary))

    assert result.final.clips == result.final.kept + result.final.rejected
    assert "worker_crash" not in result.final.codes
    assert any("its worker was stuck for 2 s and was ended (1 so far)" in text for text in diary.warnings)


@dataclass(frozen=True, kw_only=True)
class _HangsOnce(Cut):
    """Hangs at its first clip, once."""

    gate: str

    def _one(self, clip: Clip) -> Clip:
        if not Path(self.gate).exists():
            Path(self.gate).touch()
            time.sleep(600)
        return super()._one(clip)


def test_two_runs_at_once_on_two_cores_both_end(tmp_path: Path) -> None:
    from tests.support.simulated_cluster import in_own_session

    code = (
        "import sys; from pathlib import Path\n"
        "from tests.support.fake_stages import Cut, fake_run, recipe\n"
        "from pipelines.cluster.backend import RayBackend\n"
        "from pipelines.run.pipeline import LogListener, run_pipeline\n"
        "with RayBackend(address=sys.argv[1]) as engine:\n"
        "    run_pipeline(fake_run(Path(sys.argv[2]), 36, recipe(cut=Cut(pause_s=0.1))), engine, LogListener())\n"
    )
    with simulated_cluster((1, 0), (1, 0)) as cluster:

        def one(name: str) -> float:
            began = time.monotonic()
            with in_own_session(code, cluster.address, tmp_path / name) as driver:
                _, errors = driver.communicate(timeout=WATCHDOG_S)
            assert driver.returncode == 0, errors
            return time.monotonic() - began

        apart_s = one("a") + one("b")
        began = time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(one, ["c", "d"]))
        together_s = time.monotonic() - began

    assert together_s <= 1.3 * apart_s
    assert results(tmp_path / "c") == results(tmp_path / "a") == results(tmp_path / "d")
