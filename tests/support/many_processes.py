"""Run a function in several processes that find each other as torchrun's do, without paying torch's import for each."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any


def run_in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` processes; it must be importable. Fails with the first process's error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_run", "uniform.training.trainer"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(rank, count, port, results, function, arguments)) for rank in range(count)
    ]
    for child in children:
        child.start()
    errors = [text for text in (results.get() for _ in children) if text]
    for child in children:
        child.join(timeout=30)
    assert not errors, errors[0]


def _child(rank: int, count: int, port: int, results: Any, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        function(*arguments)
        results.put("")
    except BaseException:
        results.put(traceback.format_exc())
        raise
