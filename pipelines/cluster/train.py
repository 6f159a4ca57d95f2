"""Training on a Ray cluster: one function in every worker of Ray Train, started again when a worker dies.

The function does not import Ray: it finds the other processes through torch.distributed as under torchrun, and resumes
from its own checkpoints. A dead worker costs the steps since the last checkpoint. SIGTERM or Ctrl-C goes on to all
workers, so that the run saves and ends. Every node must see the same files under the same names.
"""

import asyncio
import functools
import io
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from pipelines.cluster.session import cluster_totals, join_ray
from uniform.errors import TrainingError, UniformError
from uniform.signals import on_stop_signal

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def train_on_ray(
    work: Callable[[threading.Event], Answer],
    *,
    workers: int,
    cores: int = 1,
    gpus: bool | None = None,
    address: str | None = None,
    restarts: int = 3,
) -> Answer:
    """Call `work(stop)` in every worker, in this folder; collectives run over NCCL with GPUs, else over Gloo.

    Args:
        work: importable on every node. It must end soon once `stop` is set, and resume when it is called again.
        workers: processes; they find each other as torchrun's do.
        cores: that Ray reserves for each worker.
        gpus: one for each worker, or none; None takes them where the cluster has any.
        address: of a running cluster; None starts Ray on this machine.
        restarts: times that all workers are started again after one of them died.
    Returns: the answer of the worker of rank 0.
    Raises: the UniformError that a worker raised; TrainingError where workers die too often; PipelineError without Ray.
    """
    fix = "Check --ray-address, or train without Ray: leave --ray-workers out, or use torchrun"
    started = join_ray(address, cores=workers * cores, fix=fix)
    try:
        scaling = _scaling(workers, cores, gpus)
        channel = _Channel.remote()
        with (
            _lines_shown(channel),
            _forward_signals(channel),
            tempfile.TemporaryDirectory(prefix="uniform-ray-") as scratch,
        ):
            for left in range(restarts, -1, -1):
                try:
                    answer: Answer = _attempt(functools.partial(_do, work, channel, Path.cwd()), scaling, scratch)
                    return answer
                except TrainingFailedError as error:
                    _check_restart(error, ray.get(channel.refusal.remote()), left)
    finally:
        if started:
            ray.shutdown()
    raise AssertionError("the last attempt returns or raises")


class _ChannelActor:
    """Passes lines, a stop request and refusals between the process that started the run and its workers."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._refusal: UniformError | None = None

    async def write(self, text: str | None) -> None:
        """Append text for the standard error of the process that started the run; None is the end."""
        await self._lines.put(text)

    async def read(self) -> str | None:
        """The next text; waits for it."""
        return await self._lines.get()

    async def ask_to_stop(self) -> None:
        """Let `until_stop` return in every worker, from now on."""
        self._stop.set()

    async def until_stop(self) -> None:
        """Return after `ask_to_stop`."""
        await self._stop.wait()

    async def refuse(self, error: UniformError) -> None:
        """Keep an error that the user must fix; a restart would not help."""
        self._refusal = self._refusal or error

    async def refusal(self) -> UniformError | None:
        """The first such error."""
        return self._refusal


_Channel: Any = ray.remote(num_cpus=0)(_ChannelActor)


class _Lines(io.TextIOBase):
    """A worker's standard error: it goes to the process that started the run, without Ray's own lines."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def write(self, text: str) -> int:
        self._channel.write.remote(text)
        return len(text)


def _do(work: Callable[[threading.Event], Answer], channel: Any, folder: Path) -> Answer:
    """In a worker: the work, with an event that a stop request sets."""
    stop, lines = threading.Event(), _Lines(channel)
    threading.Thread(target=_listen, args=(channel, stop), name="stop", daemon=True).start()
    logging.getLogger("uniform").addHandler(logging.StreamHandler(lines))
    try:
        with redirect_stderr(lines):
            _enter(folder)
            return work(stop)
    except UniformError as error:
        ray.get(channel.refuse.remote(error))
        raise


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise TrainingError(
            f"{folder}: not on node {os.uname().nodename} ({error.strerror}). All nodes of a training cluster must see "
            f"the same files under the same names: start from a folder of a shared file system."
        ) from error


def _listen(channel: Any, stop: threading.Event) -> None:
    try:
        ray.get(channel.until_stop.remote())
    except RayError:
        return  # the process that started the run is gone, and Ray ends its workers
    stop.set()


def _scaling(workers: int, cores: int, gpus: bool | None) -> ScalingConfig:
    """Raises: TrainingError where the cluster is too small; Ray would wait forever."""
    have = cluster_totals()
    with_gpus = have["num_gpus"] > 0 if gpus is None else gpus
    if have["num_cpus"] < workers * cores or (with_gpus and have["num_gpus"] < workers):
        wanted = f"{workers} workers of {cores} cores{' and a GPU each' if with_gpus else ''}"
        raise TrainingError(
            f"--ray-workers asks for {wanted}; Ray has {have['num_cpus']:g} cores and {have['num_gpus']:g} GPUs. "
            f'Take fewer workers, fewer compute.threads, compute.device="cpu", or a larger cluster by --ray-address.'
        )
    return ScalingConfig(num_workers=workers, use_gpu=with_gpus, resources_per_worker={"CPU": cores})


def _attempt(do: Callable[[], Any], scaling: ScalingConfig, scratch: str) -> Any:
    """One attempt of all workers. In a thread, because Ray Train treats Ctrl-C in the main thread as an abort."""
    trainer = TorchTrainer(
        do,
        scaling_config=scaling,
        run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
    )
    answer: Future[Any] = Future()

    def fit() -> None:
        try:
            result: Any = trainer.fit()
            answer.set_result(result.return_value)
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    return answer.result()


def _check_restart(error: TrainingFailedError, refusal: UniformError | None, left: int) -> None:
    """Return where a restart may help. Raises: UniformError."""
    if refusal is not None:
        raise refusal from error
    if left == 0:
        raise TrainingError(
            f"workers of the run died too often; the last time: {_reasons(error)}. The checkpoints are complete: fix "
            f"the cause (memory, a node), then start the same command again; or allow more by --ray-restarts."
        ) from error
    logger.warning("workers died (%s); they start again, %d restarts left after this one", _reasons(error), left - 1)


def _reasons(error: TrainingFailedError) -> str:
    """By rank, the last line of Ray's message: the rest is a traceback."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    parts = [f"rank {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items()]
    return "; ".join(parts) or str(error).strip().splitlines()[-1]


def _forward_signals(channel: Any) -> AbstractContextManager[None]:
    """The first SIGTERM or SIGINT makes the workers save and end; the second one ends this process."""

    def stop_workers(number: signal.Signals) -> None:
        logger.warning("%s: the workers finish their step and save", number.name)
        channel.ask_to_stop.remote()

    return on_stop_signal(stop_workers)


@contextmanager
def _lines_shown(channel: Any) -> Iterator[None]:
    """Copy the workers' standard error to that of this process."""

    def show() -> None:
        while (text := ray.get(channel.read.remote())) is not None:
            sys.stderr.write(text)

    thread = threading.Thread(target=show, name="lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        channel.write.remote(None)
        thread.join()
