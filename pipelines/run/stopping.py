"""SIGTERM and Ctrl-C: no new unit begins, units in progress end or are given up after a while, one line is shown."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.run.listener import Listener
from pipelines.run.work_queue import WorkQueue
from uniform.errors import PipelineError
from uniform.signals import on_stop_signal

DRAIN_S = 20.0
"""Units in progress may take so long to end; cluster managers kill a process 30 s after SIGTERM."""


class RunInterruptedError(PipelineError):
    """A run was asked to stop, and has stopped. The command line exits with `exit_code`."""

    def __init__(self, number: signal.Signals, made: int) -> None:
        super().__init__(
            f"stopped by {number.name} after {made} units. What is committed counts; the same command goes on."
        )
        self.exit_code = 128 + number


@contextmanager
def draining(queue: WorkQueue, listener: Listener) -> Iterator[None]:
    """Inside the block, the first SIGTERM or SIGINT closes the queue; a second one, or `DRAIN_S`, ends the block."""

    def drain(number: signal.Signals) -> None:
        queue.stop(number)
        listener.warn(f"{number.name}: no new unit begins; units in progress have {DRAIN_S:g} s to end")
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, DRAIN_S)

    def give_up(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.getsignal(signal.SIGALRM)
    try:
        with on_stop_signal(drain):
            yield
    except KeyboardInterrupt:
        if queue.stop_signal is None:
            raise
        listener.warn("units in progress are given up; the next run does them again")
    finally:
        if threading.current_thread() is threading.main_thread() and queue.stop_signal is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
