"""Runs a pipeline of fakes in a process that may be killed; started by test_kill.py.

python drive_run.py fork                       reads {"out", "kill_after_s"} per line, answers {"status", "cpu_s"}
python drive_run.py ray OUT WORKERS ADDRESS    one run on a Ray cluster
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines.recipe import Recipe
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import Cut, Encode, fake_run, recipe

CLIPS = 22
"""Four units of 5 and one of 2."""


def made(pause_s: float = 0.0, **encode: Any) -> Recipe:
    """The recipe of every run, with or without pauses and deaths."""
    return recipe(unit_clips=5, cut=Cut(pause_s=pause_s), encode=Encode(**encode))


def forked(out: Path, kill_after_s: float | None) -> tuple[int, float]:
    """Run in a child that the kernel ends after some CPU time; returns its status and the CPU time it took.

    SIGPROF without a handler ends a process as SIGKILL does: at any instruction, and nothing is tidied up. Its clock is
    the process's own, so that the point does not depend on what else the machine does.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, kill_after_s or 0.0)
        run_pipeline(fake_run(out, CLIPS, made()), InlineBackend(), LogListener())
        os.write(writer, str(sum(os.times()[:2])).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    answer = os.read(reader, 100)
    os.close(reader)
    return status, float(answer or 0)


def main() -> None:
    if sys.argv[1] == "fork":
        importlib.import_module("pandas")  # pyarrow loads it at its first array: once here, not in every child
        for line in sys.stdin:
            wanted = json.loads(line)
            status, seconds = forked(Path(wanted["out"]), wanted["kill_after_s"])
            print(json.dumps({"status": status, "cpu_s": seconds}), flush=True)
        return
    from pipelines.cluster.backend import RayBackend

    out, workers, address = sys.argv[2:]
    with RayBackend(workers=int(workers), address=address) as engine:
        run_pipeline(fake_run(Path(out), CLIPS, made(pause_s=0.02)), engine, LogListener())


if __name__ == "__main__":
    main()
