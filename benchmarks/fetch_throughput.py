"""Fetching from a loopback server against parallel curl on the same files, side by side in one run.

    python benchmarks/fetch_throughput.py [--files 60] [--kilobytes 8000] [--workers 8]

A whole video in a small format is some 8 to 15 MB; the fetch stage takes a quarter of a core, so two cores give eight
workers. Ours hashes, syncs to disk, locks, paces (bucket wide open) and checks each file; curl writes it.
"""

import argparse
import dataclasses
import functools
import http.server
import multiprocessing
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from pipelines.clip import Row
from pipelines.fetching.book import FileBook
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.pace import HostPace, HostPolicy
from pipelines.fetching.store import MediaStore

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
    store, pace = MediaStore(folder), HostPace(FileBook(folder / "pace"), OPEN)
    fetcher = HttpFetcher(store, pace, HttpOptions(), ("127.0.0.1",))
    for url in urls:
        fetcher.fetch(dataclasses.replace(ROW, source_id=url, source_uri=url))


def ours(folder: Path, urls: list[str], workers: int) -> float:
    """Seconds that our fetcher takes, each worker a process as in a run."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_all, args=(folder, urls[n::workers])) for n in range(workers)]
    began = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker failed")
    return seconds


def curl(folder: Path, urls: list[str], workers: int) -> float:
    """Seconds that parallel curl takes."""
    folder.mkdir()
    config = "\n".join(f'url = "{url}"\noutput = "{folder / str(n)}"' for n, url in enumerate(urls))
    (folder / "config").write_text(config)
    command = [
        "curl",
        "--silent",
        "--fail",
        "--parallel",
        "--parallel-max",
        str(workers),
        "--config",
        str(folder / "config"),
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Three rounds of each, alternating; print the best of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--kilobytes", type=int, default=8_000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    if shutil.which("curl") is None:
        raise SystemExit("curl is not installed: apt-get install curl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        block = b"\0\0\0\x18ftypmp42" + b"film" * 250
        for number in range(options.files):
            (folder / "files" / f"{number}.mp4").write_bytes((block * options.kilobytes)[: 1000 * options.kilobytes])
        port: multiprocessing.Queue[int] = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(str(folder / "files"), port), daemon=True)
        server.start()
        base = f"http://127.0.0.1:{port.get()}"
        urls = [f"{base}/{number}.mp4" for number in range(options.files)]
        times: dict[str, list[float]] = {"ours": [], "curl": []}
        for turn in range(3):
            times["curl"].append(curl(folder / f"curl{turn}", urls, options.workers))
            times["ours"].append(ours(folder / f"ours{turn}", urls, options.workers))
        server.terminate()
    best = {name: min(values) for name, values in times.items()}
    megabytes = options.files * options.kilobytes / 1000
    for name, seconds in best.items():
        print(f"{name:6s} {options.files / seconds:8.1f} files/s {megabytes / seconds:8.1f} MB/s")
    print(f"throughput, ours / curl: {best['curl'] / best['ours']:.2f}")


if __name__ == "__main__":
    main()
