"""The fetch stage in a run that is killed: at the end every clip is kept or coded, and nothing was asked in vain."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.hostile_server import HostileServer, body, hostile_server

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "/ok": "ok",
    "/slow": "ok",
    "/shaky": "ok",
    "/resume": "ok",
    "/status/404": "http_404",
    "/status/410": "http_410",
    "/page-as-video": "not_media",
    "/empty": "empty_file",
    "/short": "incomplete",
    "/hang-up": "connection",
    "/loop": "http_redirects",
}
RECIPE = """
name = "fetch"
spec = "toy"
unit_clips = 8
[[stage]]
use = "fetch_media"
allow_hosts = ["127.0.0.1"]
pace = { requests_per_hour = 3.6e6, burst = 100, backoff_s = 0.0, breaker_refusals = 1000 }
http = { attempts = 3, retry_s = 0.01, timeout_s = 5.0 }
[[stage]]
use = "clip_media"
"""


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def write_run(folder: Path, server: HostileServer, clips: int) -> dict[str, str]:
    """A listing of `clips` clips, some of one source; address -> what must become of it."""
    paths = list(EXPECTED)
    expected, lines = {}, ["url,start"]
    for number in range(clips):
        path = paths[number % len(paths)] if number % 3 else "/ok"
        uri = server.url(f"{path}/{number}.mp4")
        expected[uri] = EXPECTED[path]
        lines.append(f"{uri},0")
        if number % 5 == 0:
            lines.append(f"{uri},10")
    (folder / "web.csv").write_text("\n".join(lines))
    (folder / "web.toml").write_text(
        'name = "web"\nkind = "http"\n[listing]\nfile = "web.csv"\n'
        'columns = { source_uri = "url", start_s = "start" }\n'
    )
    (folder / "fetch.toml").write_text(RECIPE)
    return expected


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cli.main", "pipeline", "run", str(folder / "web.toml"), "--until", "fetch_media"]
    command += ["--recipe", str(folder / "fetch.toml"), "--out", str(folder / "run"), *more]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path, *more: str) -> str:
    process = start(folder, *more)
    process.wait(timeout=500)
    return (folder / "log").read_text()


def kill_while_it_fetches(folder: Path, server: HostileServer, after_s: float, *more: str) -> None:
    process, before = start(folder, *more), sum(server.requests.values())
    while process.poll() is None and sum(server.requests.values()) == before:
        time.sleep(0.02)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(folder: Path) -> dict[str, Counter[str]]:
    """Address -> codes of its clips, after the last attempt."""
    uris = {row["clip_id"]: row["source_uri"] for row in pq.read_table(folder / "run" / "manifest.parquet").to_pylist()}
    found: dict[str, Counter[str]] = {}
    for row in ds.dataset(folder / "run" / "ledger", format="parquet").to_table().to_pylist():
        assert row["stage"] == "fetch_media"
        found.setdefault(uris[row["clip_id"]], Counter())[row["code"] or "ok"] += 1
    return found


def check(folder: Path, server: HostileServer, expected: dict[str, str], kills: int) -> None:
    found = outcome(folder)
    assert {uri: set(codes) for uri, codes in found.items()} == {uri: {code} for uri, code in expected.items()}
    sources = folder / "run" / "sources"
    whole = [path for path in sources.rglob("*.mp4") if not any(part.startswith(".") for part in path.parts)]
    wanted = sorted(body(uri.split(str(server.server_port))[1]) for uri, code in expected.items() if code == "ok")
    assert sorted(path.read_bytes() for path in whole) == wanted
    first = Counter(path for path, span in server.ranges if span is None and path.startswith(("/ok", "/status")))
    assert max(first.values()) <= 1 + kills
    assert sum(first.values()) <= len(first) + 2 * kills  # a kill costs what was under way, and no more


def test_a_killed_run_goes_on_and_asks_for_nothing_that_is_done(server: HostileServer, tmp_path: Path) -> None:
    expected = write_run(tmp_path, server, 60)
    for after_s in (0.1, 0.5):
        kill_while_it_fetches(tmp_path, server, after_s, "--inline")

    log = finish(tmp_path, "--inline")

    assert "whole road" in log, log
    check(tmp_path, server, expected, kills=2)
    asked = sum(server.requests.values())
    finish(tmp_path, "--inline")
    assert sum(server.requests.values()) == asked


@pytest.mark.slow
def test_two_thousand_clips_four_workers_and_kills_at_random(server: HostileServer, tmp_path: Path) -> None:
    expected = write_run(tmp_path, server, 1_700)
    chance = random.Random(0)
    kills = 5
    for _ in range(kills):
        kill_while_it_fetches(tmp_path, server, chance.uniform(0.5, 8.0), "--workers", "4")

    log = finish(tmp_path, "--workers", "4")

    assert "whole road" in log, log
    check(tmp_path, server, expected, kills=4 * kills)
