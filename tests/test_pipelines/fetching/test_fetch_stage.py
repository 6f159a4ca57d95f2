"""The fetch stage in a run that is killed, or cut off from the network: at the end every clip is kept or has its code.

No source is had twice, none is visible before it is whole, no host is asked faster than its bucket allows, and a second
run asks for nothing that is done or can never be had.
"""

import contextlib
import json
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

from tests.support.hostile_server import HostileServer, body, hostile_server
from tests.support.paths import ROOT

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
LOST = {"connection", "timeout", "incomplete"}
"""What becomes of a clip whose turn comes while the network is off."""
RATE_HZ, BURST = 40.0, 4
RECIPE = f"""
name = "fetch"
spec = "toy"
unit_clips = 8
[[stage]]
use = "fetch_media"
allow_hosts = ["127.0.0.1"]
rate_limit = {{ requests_per_hour = {3600 * RATE_HZ}, burst = {BURST}, backoff_s = 0.0, breaker_refusals = 1000 }}
http = {{ attempts = 3, retry_s = 0.01, timeout_s = 1.0 }}
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


def kill_a_worker(folder: Path) -> bool:
    """End the process that has made the newest unit of a run on Ray, if it still lives."""
    markers = sorted((folder / "run" / "commits" / "fetch_media").glob("[0-9]*.json"), key=os.path.getmtime)
    pid = int(json.loads(markers[-1].read_text())["worker"].rpartition(":")[2]) if markers else 0
    with contextlib.suppress(OSError):
        if b"ray::_Worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def result_codes(folder: Path) -> dict[str, set[str]]:
    """Address -> codes of its clips, by their last attempt."""
    uris = {row["clip_id"]: row["source_uri"] for row in pq.read_table(folder / "run" / "manifest.parquet").to_pylist()}
    rows = ds.dataset(folder / "run" / "ledger", format="parquet").to_table().to_pylist()
    last = {row["clip_id"]: row for row in sorted(rows, key=lambda row: (row["unit"], row["attempt"]))}
    assert {row["stage"] for row in last.values()} == {"fetch_media"}
    assert set(last) == set(uris)
    codes: dict[str, set[str]] = {}
    for clip_id, row in last.items():
        codes.setdefault(uris[clip_id], set()).add(row["code"])
    return codes


def check_sources(folder: Path, server: HostileServer, kept: set[str]) -> None:
    """Every kept source is there, whole and once; nothing else is visible."""
    sources = folder / "run" / "sources"
    whole = [path for path in sources.rglob("*.mp4") if not any(part.startswith(".") for part in path.parts)]
    wanted = sorted(body(uri.split(str(server.server_port))[1]) for uri in kept)
    assert sorted(path.read_bytes() for path in whole) == wanted


def check_rate(server: HostileServer, workers: int) -> None:
    """The bucket held, as the server saw it: a worker may be late with the turn that it has, no more."""
    for span_s in (0.1, 0.5, 1.0, 2.0, 4.0):
        assert server.fastest(span_s) <= BURST + RATE_HZ * span_s + workers


def check(folder: Path, server: HostileServer, expected: dict[str, str], kills: int, workers: int = 1) -> None:
    assert result_codes(folder) == {uri: {code} for uri, code in expected.items()}
    check_sources(folder, server, {uri for uri, code in expected.items() if code == "ok"})
    check_rate(server, workers)
    first = Counter(path for path, span in server.ranges if span is None and path.startswith(("/ok", "/status")))
    assert max(first.values()) <= 1 + kills
    assert sum(first.values()) <= len(first) + 2 * kills  # a kill costs what was under way, and no more


def retry(folder: Path, code: str) -> None:
    command = [sys.executable, "-m", "cli.main", "pipeline", "retry", str(folder / "run"), "--code", code]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_a_killed_run_goes_on_and_asks_for_nothing_that_is_done(server: HostileServer, tmp_path: Path) -> None:
    expected = write_run(tmp_path, server, 60)
    for after_s in (0.1, 0.5):
        kill_while_it_fetches(tmp_path, server, after_s, "--inline")

    log = finish(tmp_path, "--inline")

    assert "whole run" in log, log
    check(tmp_path, server, expected, kills=2)
    asked = sum(server.requests.values())
    finish(tmp_path, "--inline")
    assert sum(server.requests.values()) == asked


def test_a_network_that_is_off_for_a_while_costs_only_what_can_be_asked_again(
    server: HostileServer, tmp_path: Path
) -> None:
    expected = write_run(tmp_path, server, 60)
    with start(tmp_path, "--inline") as process:
        while sum(server.requests.values()) < 20:
            assert process.poll() is None
            time.sleep(0.01)
        with server.network_off():
            time.sleep(2.5)
    found, asked = result_codes(tmp_path), server.requests.copy()
    lost = {uri for uri, codes in found.items() if expected[uri] not in codes}
    assert lost
    assert [(uri, codes) for uri, codes in found.items() if not codes <= {expected[uri], *LOST}] == []
    check_sources(tmp_path, server, {uri for uri, codes in found.items() if "ok" in codes})
    finish(tmp_path, "--inline")
    assert server.requests == asked

    for code in LOST & set().union(*found.values()):
        retry(tmp_path, code)
    finish(tmp_path, "--inline")

    check(tmp_path, server, expected, kills=1)
    again = {server.url(path) for path in server.requests - asked}
    assert lost <= again <= {uri for uri, codes in found.items() if codes & LOST}


def test_a_host_that_refuses_is_left_alone_and_the_run_goes_on_and_says_so(
    server: HostileServer, tmp_path: Path
) -> None:
    write_run(tmp_path, server, 1)
    busy = [server.url(f"/always-busy/{n}.mp4") for n in range(30)]
    elsewhere = [server.url(f"/ok/{n}.mp4", host="localhost") for n in range(10)]
    (tmp_path / "web.csv").write_text("\n".join(["url,start", *(f"{uri},0" for uri in (*busy, *elsewhere))]))
    recipe = RECIPE.replace("breaker_refusals = 1000", "breaker_refusals = 3")
    (tmp_path / "fetch.toml").write_text(recipe.replace('["127.0.0.1"]', '["127.0.0.1", "localhost"]'))

    log = finish(tmp_path, "--inline")

    found = result_codes(tmp_path)
    assert [found[uri] for uri in elsewhere] == [{"ok"}] * 10
    assert Counter(code for uri in busy for code in found[uri]) == {"http_429": 1, "host_paused": 29}
    assert sum(server.requests.values()) == 13
    log = " ".join(log.split())
    assert (
        "29 clips were not requested, because their host refuses requests (host_paused): '127.0.0.1 cools down until 2"
        in log
    )
    assert "--code host_paused" in log


@pytest.mark.slow
def test_two_thousand_clips_four_workers_kills_at_random_and_a_network_that_comes_and_goes(
    server: HostileServer, tmp_path: Path
) -> None:
    expected = write_run(tmp_path, server, 1_700)
    chance = random.Random(0)
    kills = 5
    for _ in range(kills):
        kill_while_it_fetches(tmp_path, server, chance.uniform(0.5, 8.0), "--workers", "4")

    with start(tmp_path, "--workers", "4") as process:
        died = 0
        for _ in range(3):
            time.sleep(chance.uniform(2.0, 8.0))
            with server.network_off():
                time.sleep(chance.uniform(1.0, 4.0))
            time.sleep(chance.uniform(0.5, 1.5))
            died += kill_a_worker(tmp_path)
    assert died
    assert process.returncode == 0, (tmp_path / "log").read_text()
    for code in LOST & set().union(*result_codes(tmp_path).values()):
        retry(tmp_path, code)
    finish(tmp_path, "--workers", "4")
    check(tmp_path, server, expected, kills=4 * (kills + 3) + died, workers=4)
    asked = sum(server.requests.values())
    finish(tmp_path, "--workers", "4")
    assert sum(server.requests.values()) == asked
