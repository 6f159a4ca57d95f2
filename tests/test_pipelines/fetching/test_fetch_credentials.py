"""Who asks: proxies and cookies are used where they belong, and what is secret in them shows up nowhere."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.fetching.address import checked_target
from pipelines.fetching.base import FetchError
from pipelines.fetching.credentials import Cookies, ProxyList
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.store import MediaStore
from pipelines.run.commits import read_commit
from pipelines.run.folder import RunFolder
from tests.support.hostile_server import HostileServer, body, hostile_server
from tests.support.paths import ROOT
from tests.support.proxy_server import PASSWORD, ProxyServer, proxy_server
from tests.test_pipelines.fetching.test_fetch_http import OPEN, ROW
from uniform.errors import ConfigError

CERTIFICATE = ROOT / "tests" / "data" / "loopback.pem"
LOOPBACK = ("127.0.0.1", "::1")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def proxy(server: HostileServer) -> Iterator[ProxyServer]:
    with proxy_server(server.server_port) as running:
        yield running


def fetcher(folder: Path, proxy: str | None, allow: tuple[str, ...] = LOOPBACK, **options: object) -> HttpFetcher:
    folder.mkdir(parents=True, exist_ok=True)
    if proxy is not None:
        (folder / "proxies.txt").write_text(f"{proxy}\n")
        options["proxies_file"] = str(folder / "proxies.txt")
    chosen = HttpOptions(**{"attempts": 1, "timeout_s": 5.0, **options})  # type: ignore[arg-type]
    store, rate_limiter = MediaStore(folder / "media"), HostRateLimiter(FileHostStates(folder / "pace"), OPEN)
    return HttpFetcher(store, rate_limiter, chosen, allow, sleep=lambda _: None)


def error_of(one: HttpFetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        one.fetch(replace(ROW, source_uri=url))
    assert "hush" not in str(caught.value)
    return caught.value


def secrets_below(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if b"hush" in path.read_bytes()]


def test_a_plain_address_goes_through_the_proxy(server: HostileServer, proxy: ProxyServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path, proxy.url())
    fetched = one.fetch(replace(ROW, source_uri=server.url("/ok/a.mp4")))

    assert fetched.path.read_bytes() == body("/ok/a.mp4")
    assert proxy.asked == [f"GET {server.url('/ok/a.mp4')}"]
    assert not secrets_below(tmp_path / "media")


def test_tls_goes_through_a_tunnel_to_the_address_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with hostile_server(CERTIFICATE) as server, proxy_server(server.server_port) as proxy:
        url = server.url("/ok/a.mp4", host="localhost")
        fetched = fetcher(tmp_path, proxy.url()).fetch(replace(ROW, source_uri=url))

    assert fetched.path.read_bytes() == body("/ok/a.mp4")
    assert proxy.asked == [f"CONNECT {checked_target(url, LOOPBACK).ip}:{server.server_port}".replace("::1", "[::1]")]


def test_a_name_that_is_allowed_is_left_to_the_proxy_and_any_other_must_be_known_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with hostile_server(CERTIFICATE) as server, proxy_server(server.server_port) as proxy:
        url = server.url("/ok/a.mp4", host="far.test")
        assert error_of(fetcher(tmp_path, proxy.url()), url).code == "dns"
        assert proxy.asked == []

        fetched = fetcher(tmp_path, proxy.url(), ("far.test",)).fetch(replace(ROW, source_uri=url))

    assert fetched.path.read_bytes() == body("/ok/a.mp4")
    assert proxy.asked == [f"CONNECT far.test:{server.server_port}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "2130706433", "[::1]"])
def test_a_proxy_opens_no_way_into_a_private_network(proxy: ProxyServer, tmp_path: Path, host: str) -> None:
    one = fetcher(tmp_path, proxy.url(), allow=())

    assert error_of(one, f"http://{host}/a.mp4").code == "address_refused"
    assert proxy.asked == []


def test_a_redirect_into_a_private_network_is_refused_by_proxy_too(
    server: HostileServer, proxy: ProxyServer, tmp_path: Path
) -> None:
    assert error_of(fetcher(tmp_path, proxy.url()), server.url("/to/private")).code == "address_refused"
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_fails_is_named_and_not_gone_round(
    server: HostileServer, proxy: ProxyServer, tmp_path: Path, scheme: str
) -> None:
    url = server.url("/ok/a.mp4").replace("http:", f"{scheme}:")
    wrong = error_of(fetcher(tmp_path / "wrong", proxy.url("other-hush")), url)
    dead = error_of(fetcher(tmp_path / "dead", "http://me:hush@127.0.0.1:9"), url)

    assert (wrong.code, dead.code) == ("proxy", "proxy")
    assert "407" in wrong.reason
    assert "http://127.0.0.1:9" in dead.reason
    assert sum(server.requests.values()) == 0


def test_the_environment_names_a_proxy_and_its_exceptions(
    server: HostileServer, proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url())
    monkeypatch.setenv("no_proxy", "")
    fetcher(tmp_path, None).fetch(replace(ROW, source_uri=server.url("/ok/a.mp4")))
    assert len(proxy.asked) == 1

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetcher(tmp_path, None).fetch(replace(ROW, source_uri=server.url("/ok/b.mp4")))
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    "line", ["socks5://me:hush@h:1", "me:hush@h:80", "http://me:hush@h:port", "ftp://hush", "http://:hush@"]
)
def test_a_line_that_is_no_proxy_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "proxies").write_text(f"http://good:1\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"proxies, line 3: no proxy address") as caught:
        ProxyList(str(tmp_path / "proxies"), ("http",))

    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_source_keeps_its_proxy_and_sources_share_them_out(tmp_path: Path) -> None:
    (tmp_path / "proxies").write_text("http://one:1\nhttp://two:2\nhttp://three:3\n")
    proxies = ProxyList(str(tmp_path / "proxies"))
    keys = [MediaStore.key("http", "", f"http://h/{n}") for n in range(60)]

    assert [proxies.of(key) for key in keys] == [proxies.of(key) for key in keys]
    assert {str(proxies.of(key)) for key in keys} == {"http://one:1", "http://two:2", "http://three:3"}


def test_an_empty_list_of_proxies_does_not_mean_to_go_without(tmp_path: Path) -> None:
    (tmp_path / "proxies").write_text("\n")
    with pytest.raises(ConfigError, match="names no proxy"):
        ProxyList(str(tmp_path / "proxies"))


def test_a_cookie_goes_to_its_own_host_alone(server: HostileServer, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        "# Netscape HTTP Cookie File\n"
        "127.0.0.1\tFALSE\t/\tFALSE\t0\tours\tvalue-hush\nother.test\tFALSE\t/\tFALSE\t0\ttheirs\tother-hush\n"
    )
    fetcher(tmp_path, None, cookies_file=str(cookies)).fetch(replace(ROW, source_uri=server.url("/ok/a.mp4")))

    assert server.cookies == [("/ok/a.mp4", "ours=value-hush")]
    assert not secrets_below(tmp_path / "media")


def test_a_file_that_holds_no_cookies_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "cookies.txt").write_text("session=hush\n")
    with pytest.raises(ConfigError, match="no Netscape cookies file") as caught:
        Cookies(str(tmp_path / "cookies.txt"))

    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def prepare_run(folder: Path, urls: list[str], options: str) -> None:
    """A manifest of addresses and a recipe that fetches them with `options` of the HTTP fetcher."""
    (folder / "web.csv").write_text("\n".join(["url", *urls]))
    (folder / "web.toml").write_text(
        'name = "web"\nkind = "http"\n[listing]\nfile = "web.csv"\ncolumns = { source_uri = "url" }\n'
    )
    (folder / "recipe.toml").write_text(
        'name = "fetch"\nspec = "toy"\nunit_clips = 8\n[[stage]]\nuse = "fetch_media"\nallow_hosts = ["127.0.0.1"]\n'
        "rate_limit = { requests_per_hour = 3.6e6, burst = 100, backoff_s = 0.0 }\n"
        f"http = {{ attempts = 1, {options} }}\n"
    )


def run_options(folder: Path) -> list[str]:
    return ["--inline", "--recipe", str(folder / "recipe.toml"), "--out", str(folder / "run")]


def uniform_pipeline(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "pipeline", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def codes_of(run: Path, unit: int) -> Mapping[str, int]:
    commit = read_commit(RunFolder(run).commit("fetch_media", unit))
    assert commit is not None
    return commit.codes


def test_what_is_locked_is_asked_once_and_again_after_a_retry(server: HostileServer, tmp_path: Path) -> None:
    urls = [server.url(f"/members/{n}.mp4") for n in range(3)]
    prepare_run(tmp_path, urls, "timeout_s = 5.0")
    for _ in range(2):
        first = uniform_pipeline("run", str(tmp_path / "web.toml"), *run_options(tmp_path))
        assert first.returncode == 0, first.stderr
    assert sum(server.requests.values()) == 3
    assert codes_of(tmp_path / "run", unit=0) == {"http_403": 3}

    (tmp_path / "cookies").write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\ta\thush\n")
    prepare_run(tmp_path, urls, f'cookies_file = "{tmp_path / "cookies"}"')
    planned = uniform_pipeline("retry", str(tmp_path / "run"), "--code", "http_403")
    assert planned.returncode == 0, planned.stderr
    again = uniform_pipeline("run", str(tmp_path / "web.toml"), *run_options(tmp_path))

    assert again.returncode == 0, again.stderr
    assert codes_of(tmp_path / "run", unit=1) == {"ok": 3}
    assert sum(server.requests.values()) == 6
    assert not secrets_below(tmp_path / "run")


def test_no_secret_is_in_anything_that_a_run_writes(server: HostileServer, proxy: ProxyServer, tmp_path: Path) -> None:
    secrets = tmp_path / "private"
    secrets.mkdir()
    (secrets / "proxies").write_text(f"{proxy.url()}\nhttp://me:dead-hush@127.0.0.1:9\n")
    (secrets / "cookies").write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\ta\thush\n")
    lines = [server.url(f"{path}/{n}.mp4") for n in range(8) for path in ("/ok", "/status/403", "/hang-up")]
    options = ", ".join(f'{name}_file = "{secrets / name}"' for name in ("proxies", "cookies"))
    prepare_run(tmp_path, lines, options)
    done = uniform_pipeline("run", str(tmp_path / "web.toml"), *run_options(tmp_path))

    assert done.returncode == 0, done.stderr
    assert proxy.asked
    assert "a=hush" in {cookie for _, cookie in server.cookies}
    assert PASSWORD not in done.stdout + done.stderr
    assert "dead-hush" not in done.stdout + done.stderr
    assert not secrets_below(tmp_path / "run")
