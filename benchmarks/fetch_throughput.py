"""Fetching from a loopback server against parallel curl on the same files, side by side in one run.

    python benchmarks/fetch_throughput.py [--files 120] [--kilobytes 8000] [--workers 8] [--rounds 5] [--folder DIR]

A whole video in a small format is some 8 to 15 MB; the fetch stage takes a quarter of a core, so two cores give eight
workers. Ours hashes, syncs to disk, locks, paces (bucket wide open) and checks each file; curl writes it. The server is
Python too and shares the cores. Where the disk is the bound, ours is measured against curl whose files are synced too.
"""

import argparse
import dataclasses
import functools
import http.server
import multiprocessing
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipelines.clip import Row
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy

ROW = Row(
    clip_id="0" * 16,
    dataset="bench",
    split="train",
    source_kind="http",
    source_id="",
    source_uri="",
    start_ms=0,
    duration_ms=4000,
)
OPEN = HostPolicy(requests_per_hour=3.6e7, burst=10_000)


class Cost(NamedTuple):
    """Of one round."""

    seconds: float
    cpu_s: float


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Silence."""


def serve(folder: str, port: "multiprocessing.Queue[int]") -> None:
    """Serve `folder` in this process until it ends."""
    handler = functools.partial(_Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    port.put(server.server_port)
    server.serve_forever()


def fetch_all(folder: Path, urls: list[str]) -> None:
    """One worker's share."""
    store, rate_limiter = MediaStore(folder), HostRateLimiter(FileHostStates(folder / "pace"), OPEN)
    fetcher = HttpFetcher(store, rate_limiter, HttpOptions(), ("127.0.0.1",))
    for url in urls:
        fetcher.fetch(dataclasses.replace(ROW, source_id=url, source_uri=url))


def ours(folder: Path, urls: list[str], workers: int) -> None:
    """Our fetcher, each worker a process as in a run."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_all, args=(folder, urls[n::workers])) for n in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker failed")


def curl(folder: Path, urls: list[str], workers: int) -> None:
    """Parallel curl."""
    folder.mkdir()
    config = "\n".join(f'url = "{url}"\noutput = "{folder / str(n)}"' for n, url in enumerate(urls))
    (folder / "config").write_text(config)
    command = ["curl", "--silent", "--fail", "--parallel", "--parallel-max", str(workers)]
    subprocess.run([*command, "--config", str(folder / "config")], check=True, stderr=subprocess.DEVNULL)


def curl_synced(folder: Path, urls: list[str], workers: int) -> None:
    """Parallel curl, and its files on the disk at the end, as ours are."""
    curl(folder, urls, workers)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def measured(program: Callable[[Path, list[str], int], None], folder: Path, urls: list[str], workers: int) -> Cost:
    """What fetching all `urls` costs."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    program(folder, urls, workers)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder)
    return Cost(seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main() -> None:
    """Rounds of each, alternating; print the best of all and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=120)
    parser.add_argument("--kilobytes", type=int, default=8_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are written; default a temporary folder")
    options = parser.parse_args()
    if shutil.which("curl") is None:
        raise SystemExit("curl is not installed: apt-get install curl")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "files").mkdir()
        size = 1000 * options.kilobytes
        head = b"\0\0\0\x18ftypmp42" + b"\0" * 12 + b"\0\0\0\x08moov" + (size - 32).to_bytes(4, "big") + b"mdat"
        for number in range(options.files):
            (folder / "files" / f"{number}.mp4").write_bytes((head + b"clip" * (size // 4))[:size])
        port: multiprocessing.Queue[int] = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(str(folder / "files"), port), daemon=True)
        server.start()
        base = f"http://127.0.0.1:{port.get()}"
        urls = [f"{base}/{number}.mp4" for number in range(options.files)]
        programs = {"ours": ours, "curl": curl, "curl, synced": curl_synced}
        costs: dict[str, list[Cost]] = {name: [] for name in programs}
        for turn in range(options.rounds):
            for name, program in programs.items():
                costs[name].append(measured(program, folder / f"{name} {turn}", urls, options.workers))
        server.terminate()
    best = {name: Cost(min(c.seconds for c in found), min(c.cpu_s for c in found)) for name, found in costs.items()}
    megabytes = options.files * options.kilobytes / 1000
    for name, cost in best.items():
        per_file_ms = 1000 * cost.cpu_s / options.files
        rate = f"{options.files / cost.seconds:8.1f} files/s {megabytes / cost.seconds:8.1f} MB/s"
        print(f"{name:13s} {rate} {per_file_ms:6.1f} ms of CPU a file")
    for name in ("curl", "curl, synced"):
        print(f"throughput, ours / {name}: {best[name].seconds / best['ours'].seconds:.2f}")


if __name__ == "__main__":
    main()
