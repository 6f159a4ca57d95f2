"""HTTP against a hostile server: every clip is kept whole or has its code; nothing is half-visible or had twice."""

import email.utils
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.clip import Clip, Row
from pipelines.codes import CODES
from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.partial_download import PartialDownload
from pipelines.fetching.rate_limit import HostRateLimiter, retry_after_s
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy
from pipelines.run.ledger import status_of
from pipelines.stage import Context
from pipelines.stages.fetch_media import Stage
from tests.support.hostile_server import HostileServer, body, hostile_server
from tests.support.paths import DATA
from uniform.spec import TOY

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
OPEN = HostPolicy(requests_per_hour=3.6e6, burst=1000, backoff_s=0.0, breaker_refusals=10_000)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


class Hours:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1_750_000_000.0, [0.0]

    def time(self) -> float:
        return self.now

    def sleep(self, wait_s: float) -> None:
        self.slept.append(wait_s)
        self.now += wait_s


def fetcher(folder: Path, policy: HostPolicy = OPEN, hours: Hours | None = None, **limits: object) -> HttpFetcher:
    """A fetcher whose waits are noted instead of waited for."""
    hours = hours or Hours()
    rate_limiter = HostRateLimiter(FileHostStates(folder / "pace", clock=hours.time), policy, sleep=hours.sleep)
    bounds = HttpOptions(**{"largest_bytes": 1_000_000, "timeout_s": 1.0, **limits})  # type: ignore[arg-type]
    return HttpFetcher(MediaStore(folder), rate_limiter, bounds, ("127.0.0.1",), sleep=hours.sleep)


def code_for(one: HttpFetcher, url: str) -> str:
    with pytest.raises(FetchError) as caught:
        one.fetch(replace(ROW, source_uri=url))
    assert caught.value.code in CODES
    assert caught.value.reason
    return caught.value.code


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix in (".mp4", ".webm"))


@pytest.mark.parametrize(
    "path", ["/ok/a.mp4", "/no-length/a", "/hop/a", "/shaky/a", "/busy/a", "/odd-numbers/a", "/ok/%C3%A9 b.mp4"]
)
def test_what_can_be_had_is_had_whole(server: HostileServer, tmp_path: Path, path: str) -> None:
    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url(path).replace(" ", "%20")))

    name = "/ok/after-hop" if path == "/hop/a" else path.replace(" ", "%20")
    assert fetched.path.read_bytes() == body(name)
    assert fetched.sha256 == hashlib.sha256(body(name)).hexdigest()
    assert len(visible(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/400", "http_4xx"),
        ("/status/401", "http_401"),
        ("/status/403", "http_403"),
        ("/status/404", "http_404"),
        ("/status/410", "http_410"),
        ("/status/500", "http_5xx"),
        ("/status/503", "http_5xx"),
        ("/always-busy/a", "http_429"),
        ("/loop/a", "http_redirects"),
        ("/to/file", "scheme_refused"),
        ("/to/private", "address_refused"),
        ("/to/nowhere", "bad_response"),
        ("/page/a.mp4", "not_media"),
        ("/page-as-video/a.mp4", "not_media"),
        ("/message-as-video/a.mp4", "not_media"),
        ("/empty/a", "empty_file"),
        ("/huge/a", "too_large"),
        ("/endless/a", "too_large"),
        ("/gzip/a", "bad_response"),
        ("/short/a", "incomplete"),
        ("/cut/a", "incomplete"),
        ("/cut-at-home/a", "truncated"),
        ("/tiny/a", "truncated"),
        ("/hang-up/a", "connection"),
        ("/nonsense/a", "bad_response"),
        ("/silent/a", "timeout"),
    ],
)
def test_each_misbehaviour_has_its_code_and_leaves_nothing(
    server: HostileServer, tmp_path: Path, path: str, code: str
) -> None:
    assert code_for(fetcher(tmp_path, timeout_s=0.3, attempts=2), server.url(path)) == code
    assert visible(tmp_path) == []


def test_a_drip_is_given_up(server: HostileServer, tmp_path: Path) -> None:
    assert code_for(fetcher(tmp_path, window_s=0.2), server.url("/drip/a")) == "too_slow"


def test_tls_with_a_host_that_speaks_none_is_named(server: HostileServer, tmp_path: Path) -> None:
    url = server.url("/ok/a").replace("http:", "https:")

    assert code_for(fetcher(tmp_path, attempts=1), url) == "tls"


def test_a_certificate_of_nobody_and_one_of_another_host_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = DATA / "loopback.pem"
    with hostile_server(certificate) as server:
        assert code_for(fetcher(tmp_path, attempts=1), server.url("/ok/a", host="127.0.0.1")) == "tls"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # now it is vouched for, but only for localhost
        assert code_for(fetcher(tmp_path, attempts=1), server.url("/ok/a", host="127.0.0.1")) == "tls"
        assert sum(server.requests.values()) == 0


def test_requests_to_one_host_share_a_connection(server: HostileServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path, attempts=1)
    for number in range(5):
        path = f"/kept/{number}.mp4"
        assert one.fetch(replace(ROW, source_uri=server.url(path))).path.read_bytes() == body(path)

    assert server.connections == 1


def test_a_connection_that_its_host_has_closed_costs_nothing(server: HostileServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path, attempts=1)
    for number in range(5):
        one.fetch(replace(ROW, source_uri=server.url(f"/ok/{number}.mp4")))

    assert server.connections == 5
    assert set(server.requests.values()) == {1}


def test_a_closed_port_and_an_unknown_name_are_named(tmp_path: Path) -> None:
    assert code_for(fetcher(tmp_path, attempts=1), "http://127.0.0.1:9/a.mp4") == "connection"
    assert code_for(fetcher(tmp_path, attempts=1), "http://no-such-host.invalid/a.mp4") == "dns"


def test_a_permanent_refusal_is_asked_once_and_a_transient_one_some_times(
    server: HostileServer, tmp_path: Path
) -> None:
    one = fetcher(tmp_path, attempts=3)
    for _ in range(2):
        code_for(one, server.url("/status/404"))
        code_for(one, server.url("/status/500"))

    assert server.requests["/status/404"] == 1
    assert server.requests["/status/500"] == 6


def test_a_host_that_is_allowed_later_is_asked_then(server: HostileServer, tmp_path: Path) -> None:
    url = server.url("/ok/a.mp4")
    rate_limiter = HostRateLimiter(FileHostStates(tmp_path / "pace"), OPEN)
    assert code_for(HttpFetcher(MediaStore(tmp_path), rate_limiter, HttpOptions()), url) == "address_refused"

    assert fetcher(tmp_path).fetch(replace(ROW, source_uri=url)).path.read_bytes() == body("/ok/a.mp4")


@pytest.mark.parametrize("path", ["/resume/a", "/ignores-range/a", "/lying-range/a", "/not-satisfiable/a"])
def test_a_break_is_gone_on_with_and_the_file_is_right(server: HostileServer, tmp_path: Path, path: str) -> None:
    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url(path)))

    assert fetched.path.read_bytes() == body(path)
    assert server.ranges[1] == (path, "bytes=30000-")


def test_two_versions_of_a_file_are_never_sewn_together(server: HostileServer, tmp_path: Path) -> None:
    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url("/changing/a")))

    assert fetched.path.read_bytes() == body("/changing/a2")


def test_a_part_of_unknown_origin_is_thrown_away(server: HostileServer, tmp_path: Path) -> None:
    url = server.url("/ok/a.mp4")
    key = MediaStore.key("http", "", url)
    work = tmp_path / key[:2] / f".tmp-{key}"
    work.mkdir(parents=True)
    (work / "part").write_bytes(b"foreign" * 100)

    assert fetcher(tmp_path).fetch(replace(ROW, source_uri=url)).path.read_bytes() == body("/ok/a.mp4")
    assert not work.exists()


def test_a_part_that_somebody_else_writes_to_is_noticed(tmp_path: Path) -> None:
    part = PartialDownload(tmp_path)

    def write_both() -> None:
        with part.growing() as append:
            append(b"ours")
            with part.path.open("ab") as other:
                other.write(b"theirs")

    with pytest.raises(FetchError, match="changed"):
        write_both()


def test_a_file_that_was_cut_on_disk_is_fetched_again(server: HostileServer, tmp_path: Path) -> None:
    row = replace(ROW, source_uri=server.url("/ok/a.mp4"))
    fetcher(tmp_path).fetch(row).path.write_bytes(b"cut")

    assert fetcher(tmp_path).fetch(row).path.read_bytes() == body("/ok/a.mp4")


def test_retry_after_is_waited_for(server: HostileServer, tmp_path: Path) -> None:
    hours = Hours()
    fetcher(tmp_path, hours=hours).fetch(replace(ROW, source_uri=server.url("/busy/a")))

    assert max(hours.slept) == pytest.approx(7.0)


def test_a_burst_of_refusals_stops_the_host_and_the_rest_goes_on(server: HostileServer, tmp_path: Path) -> None:
    policy = replace(OPEN, breaker_refusals=3)
    one = fetcher(tmp_path, policy, attempts=1)
    codes = [code_for(one, server.url(f"/always-busy/{n}")) for n in range(6)]

    assert codes == ["http_429"] * 3 + ["host_paused"] * 3
    assert sum(server.requests.values()) == 3
    with pytest.raises(FetchError, match=r"cools down until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: HTTP 429"):
        one.fetch(replace(ROW, source_uri=server.url("/ok/a")))


@pytest.mark.parametrize(
    ("value", "wanted_s"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("9" * 5000, None),
        ("-5", None),
        ("\xb2", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_retry_after_is_a_number_or_a_date_and_anything_else_is_none(value: str, wanted_s: float | None) -> None:
    assert retry_after_s(value) == wanted_s


def test_a_retry_after_may_name_a_time_to_come() -> None:
    assert retry_after_s(email.utils.formatdate(time.time() + 600, usegmt=True)) == pytest.approx(600, abs=60)


def _fetch_many(folder: str, urls: list[str]) -> None:
    one = HttpFetcher(
        MediaStore(Path(folder)),
        HostRateLimiter(FileHostStates(Path(folder) / "pace"), OPEN),
        HttpOptions(),
        ("127.0.0.1",),
    )
    for url in urls:
        one.fetch(replace(ROW, source_uri=url))


def test_workers_that_want_the_same_sources_fetch_each_once(server: HostileServer, tmp_path: Path) -> None:
    urls = [server.url(f"/ok/{number}.mp4") for number in range(30)]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fetch_many, args=(str(tmp_path), urls[n:] + urls[:n])) for n in (0, 3, 15)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert set(server.requests.values()) == {1}
    assert len(visible(tmp_path)) == 30
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6])
def test_a_killed_worker_leaves_nothing_visible_and_the_next_goes_on(
    server: HostileServer, tmp_path: Path, after_s: float
) -> None:
    url = server.url("/slow/a.mp4")
    worker = multiprocessing.get_context("fork").Process(target=_fetch_many, args=(str(tmp_path), [url]))
    worker.start()
    while not server.requests["/slow/a.mp4"]:
        time.sleep(0.01)
    time.sleep(after_s)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert visible(tmp_path) == []

    _fetch_many(str(tmp_path), [url])

    (path,) = tmp_path.rglob("*.mp4")
    assert path.read_bytes() == body("/slow/a.mp4")


def test_the_stage_keeps_good_clips_and_codes_bad_ones(server: HostileServer, tmp_path: Path) -> None:
    stage = Stage(allow_hosts=("127.0.0.1",), rate_limit=OPEN, http=HttpOptions(attempts=1))
    paths = ["/ok/a.mp4", "/status/404", "/page-as-video/b", "/ok/a.mp4"]
    clips = [Clip(replace(ROW, source_uri=server.url(path))) for path in paths]

    done = list(stage.open(Context(spec=TOY, folder=tmp_path))(iter(clips)))

    found = [(status_of(clip.dropped.code), clip.dropped.code) if clip.dropped else None for clip in done]
    assert found == [None, ("failed", "http_404"), ("rejected", "not_media"), None]
    assert done[0]["source"] == done[3]["source"]
    assert server.requests["/ok/a.mp4"] == 1
