"""A host that feeds a byte now and then holds no worker: whatever must come whole has its time."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.clip import Row
from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.stall_guard import ThroughputMonitor
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy
from tests.support.hostile_server import hostile_server

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="web",
    split="train",
    source_kind="http",
    source_id="a",
    source_uri="",
    start_ms=0,
    duration_ms=4000,
)


def error_in_time(folder: Path, uri: str, proxies_file: str | None = None) -> FetchError:
    """What becomes of an address whose head has 0.6 s, where each byte may take 0.5 s.

    Every drip here breaks off after some seconds, which gives another code: so the code shows that nobody waited.
    """
    options = HttpOptions(timeout_s=0.5, window_s=0.6, proxies_file=proxies_file)
    rate_limiter = HostRateLimiter(FileHostStates(folder / "pace"), HostPolicy(burst=99))
    with pytest.raises(FetchError) as caught:
        HttpFetcher(MediaStore(folder), rate_limiter, options, ("127.0.0.1",), sleep=lambda _: None).fetch(
            replace(ROW, source_uri=uri)
        )
    return caught.value


@contextlib.contextmanager
def dripping(content: bytes) -> Iterator[int]:
    """The port of a server that gives `content` to whoever comes, a byte every 0.2 s."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        for byte in content:
                            connection.sendall(bytes([byte]))
                            time.sleep(0.2)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("path", ["/slow-head/a", "/slow-chunk/a"])
def test_a_drip_that_ends_no_line_is_given_up_in_time(tmp_path: Path, path: str) -> None:
    with hostile_server() as server:
        assert error_in_time(tmp_path, server.url(path)).code == "too_slow"


def test_a_drip_of_tls_is_given_up_in_time(tmp_path: Path) -> None:
    with dripping(b"\x16\x03\x03\x40\x00" + b"\0" * 35) as port:
        assert error_in_time(tmp_path, f"https://127.0.0.1:{port}/a.mp4").code == "timeout"


def test_a_proxy_that_drips_is_given_up_in_time(tmp_path: Path) -> None:
    with dripping(b"HTTP/1.1 200 " + b"x" * 20) as port:
        (tmp_path / "proxies.txt").write_text(f"http://127.0.0.1:{port}\n")
        error = error_in_time(tmp_path, "https://127.0.0.1:9/a.mp4", str(tmp_path / "proxies.txt"))

    assert error.code == "proxy"
    assert "the proxy's tunnel did not come within 0.6 s" in error.reason


def test_each_window_has_a_pace_of_its_own() -> None:
    times = iter((0.0, 5.0, 10.0, 10.0, 21.0))
    meter = ThroughputMonitor(100.0, 10.0, size=50, clock=lambda: next(times))
    meter.judge(60)
    meter.judge(2_000)

    with pytest.raises(FetchError, match=r"too_slow: 1,000 bytes in 11 s"):
        meter.judge(3_000)
