"""yt-dlp against the hostile server: its successes are checked, its failures become plain data."""

import hashlib
import importlib.util
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.clip import Clip, Row
from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.sites import SiteFetcher, SiteOptions, _Log
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy
from pipelines.stage import Context
from pipelines.stages.fetch_media import Stage
from tests.support.hostile_server import HostileServer, body, hostile_server
from uniform.errors import ConfigError
from uniform.spec import TOY

ROW = Row(
    clip_id="0123456789abcdef",
    dataset="web",
    split="train",
    source_kind="youtube",
    source_id="a",
    source_uri="",
    start_ms=0,
    duration_ms=4000,
)
POLICY = HostPolicy(requests_per_hour=3.6e6, burst=1000, backoff_s=0.0, breaker_refusals=2)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def fetcher(folder: Path, allow: tuple[str, ...] = ("127.0.0.1",), **options: object) -> SiteFetcher:
    rate_limiter = HostRateLimiter(FileHostStates(folder / "pace"), POLICY, sleep=lambda _: None)
    chosen = SiteOptions(**{"extractors": ("generic", "html5"), "timeout_s": 1.0, **options})  # type: ignore[arg-type]
    return SiteFetcher(MediaStore(folder), rate_limiter, chosen, allow)


def error_of(one: SiteFetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        one.fetch(replace(ROW, source_uri=url))
    assert pickle.loads(pickle.dumps(caught.value)).code == caught.value.code
    return caught.value


def test_a_page_with_a_video_gives_the_video_with_its_metadata(server: HostileServer, tmp_path: Path) -> None:
    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url("/watch/ok/a.mp4")))

    assert fetched.path.read_bytes() == body("/ok/a.mp4")
    assert (fetched.title, fetched.format) == ("A clip (1)", "0, unknown height, mp4")
    assert fetched.notes == ("format 0, unknown height, mp4",)


def test_the_row_keeps_format_title_size_digest_and_time(server: HostileServer, tmp_path: Path) -> None:
    sites = SiteOptions(extractors=("generic", "html5"))
    stage = Stage(allow_hosts=("127.0.0.1",), rate_limit=POLICY, hosts={}, sites=sites)
    work = stage.open(Context(spec=TOY, folder=tmp_path))
    clip = Clip(replace(ROW, source_uri=server.url("/watch/ok/a.mp4")))
    (first,), (again,) = list(work(iter([clip]))), list(work(iter([clip])))

    content = body("/ok/a.mp4")
    assert first.fields == again.fields
    assert set(first.fields) == set(stage.gives)
    assert (first["source_bytes"], first["source_sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (first["source_format"], first["source_title"]) == ("0, unknown height, mp4", "A clip (1)")
    assert abs(datetime.fromisoformat(first["source_fetched"]).timestamp() - time.time()) < 600


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/403", "http_403"),
        ("/status/404", "http_404"),
        ("/status/410", "http_410"),
        ("/status/500", "http_5xx"),
        ("/page/a", "not_media"),
        ("/two/a", "not_media"),
        ("/silent/a", "timeout"),
        ("/hang-up/a", "connection"),
        ("/page-as-video/a.mp4", "not_media"),
        ("/empty/a.mp4", "incomplete"),
        ("/cut/a.mp4", "incomplete"),
        ("/tiny/a.mp4", "incomplete"),
    ],
)
def test_failures_and_false_successes_have_codes(server: HostileServer, tmp_path: Path, path: str, code: str) -> None:
    assert error_of(fetcher(tmp_path), server.url(path)).code == code
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_file_over_the_limit_is_refused_and_not_skipped_silently(server: HostileServer, tmp_path: Path) -> None:
    assert error_of(fetcher(tmp_path, largest_bytes=10_000), server.url("/ok/a.mp4")).code == "too_large"


def test_ten_gigabytes_are_refused_before_they_come(server: HostileServer, tmp_path: Path) -> None:
    assert error_of(fetcher(tmp_path), server.url("/huge/a.mp4")).code == "too_large"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000


def test_a_file_without_end_and_a_drip_are_given_up(server: HostileServer, tmp_path: Path) -> None:
    assert error_of(fetcher(tmp_path, largest_bytes=1_000_000), server.url("/endless/a.mp4")).code == "too_large"
    assert error_of(fetcher(tmp_path, longest_s=0.3), server.url("/trickle/a.mp4")).code == "too_slow"


def test_what_an_earlier_attempt_left_is_not_gone_on_with(server: HostileServer, tmp_path: Path) -> None:
    url = server.url("/ok/a.mp4")
    key = MediaStore.key("youtube", "", url)
    work = tmp_path / key[:2] / f".tmp-{key}"
    work.mkdir(parents=True)
    (work / "media.mp4.part").write_bytes(b"foreign" * 100)

    assert fetcher(tmp_path).fetch(replace(ROW, source_uri=url)).path.read_bytes() == body("/ok/a.mp4")


def test_refusals_of_the_machine_open_the_breaker(server: HostileServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path)
    codes = [error_of(one, server.url(f"/always-busy/{n}")).code for n in range(3)]

    assert codes == ["http_429", "http_429", "host_paused"]


def test_a_silent_host_has_not_answered_well(server: HostileServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path, attempts=1)
    paths = ("/always-busy/0", "/silent/a", "/always-busy/1", "/ok/a.mp4")

    assert [error_of(one, server.url(path)).code for path in paths] == [
        "http_429",
        "timeout",
        "http_429",
        "host_paused",
    ]


@pytest.mark.parametrize(("path", "rest_s"), [("/busy/a.mp4", 7.0), ("/overloaded/a.mp4", 9.0)])
def test_a_rest_that_the_first_answer_asks_for_is_kept(
    server: HostileServer, tmp_path: Path, path: str, rest_s: float
) -> None:
    waits: list[float] = []
    rate_limiter = HostRateLimiter(FileHostStates(tmp_path / "pace"), POLICY, sleep=waits.append)
    options = SiteOptions(extractors=("generic", "html5"), timeout_s=1.0)
    one = SiteFetcher(MediaStore(tmp_path), rate_limiter, options, ("127.0.0.1",))

    fetched = one.fetch(replace(ROW, source_uri=server.url(path)))

    assert fetched.path.read_bytes() == body(path)
    assert waits[0] == pytest.approx(rest_s, abs=1)


@pytest.mark.parametrize("uri", ["--exec", "-o/tmp/x", "ytsearch:cats", "file://youtube.com/etc/passwd", "; rm -rf /"])
def test_an_address_is_never_taken_for_anything_else(tmp_path: Path, uri: str) -> None:
    assert error_of(fetcher(tmp_path), uri).code == "scheme_refused"


@pytest.mark.parametrize("host", ["www.youtube.com", "youtu.be", "m.youtube.com", "music.youtube.com"])
def test_all_names_of_youtube_share_its_bucket(tmp_path: Path, host: str) -> None:
    rate_limiter = HostRateLimiter(FileHostStates(tmp_path / "pace"), POLICY)
    rate_limiter.report("youtube.com", "sign in", 7_200.0)
    one = SiteFetcher(MediaStore(tmp_path), rate_limiter, SiteOptions())

    assert error_of(one, f"https://{host}/watch?v=0").code == "host_paused"


def test_an_address_of_our_own_network_and_another_scheme_are_refused(server: HostileServer, tmp_path: Path) -> None:
    one = fetcher(tmp_path, allow=())

    assert error_of(one, server.url("/ok/a.mp4")).code == "address_refused"
    assert error_of(one, "file:///etc/passwd").code == "scheme_refused"
    assert sum(server.requests.values()) == 0


def test_an_extractor_that_is_not_named_is_not_used(server: HostileServer, tmp_path: Path) -> None:
    error = error_of(fetcher(tmp_path, extractors=("youtube",)), server.url("/ok/a.mp4"))

    assert error.code in ("not_media", "extractor", "unknown")
    assert sum(server.requests.values()) == 0


def test_the_cookies_file_stays_as_it_was(server: HostileServer, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret\n")
    before = cookies.read_bytes()

    fetcher(tmp_path / "run", cookies_file=str(cookies)).fetch(replace(ROW, source_uri=server.url("/ok/a.mp4")))

    assert cookies.read_bytes() == before
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file() and b"secret" in p.read_bytes()]


def test_the_user_agent_is_the_one_that_was_chosen(server: HostileServer, tmp_path: Path) -> None:
    fetcher(tmp_path, user_agent="a laboratory").fetch(replace(ROW, source_uri=server.url("/ok/a.mp4")))

    assert server.agents == {"a laboratory"}


def test_a_proxy_that_is_not_there_is_named_and_not_gone_round(server: HostileServer, tmp_path: Path) -> None:
    (tmp_path / "proxies").write_text("http://me:secret@127.0.0.1:9\n")

    error = error_of(fetcher(tmp_path, proxies_file=str(tmp_path / "proxies")), server.url("/ok/a.mp4"))

    assert error.code in ("proxy", "connection")
    assert "secret" not in error.reason
    assert sum(server.requests.values()) == 0


def test_a_browser_that_cannot_be_imitated_is_named(server: HostileServer, tmp_path: Path) -> None:
    if importlib.util.find_spec("curl_cffi"):
        pytest.skip("curl_cffi is installed")

    error = error_of(fetcher(tmp_path, impersonate="chrome"), server.url("/ok/a.mp4"))

    assert error.code == "no_driver"
    assert "uniform-toolkit[impersonate]" in error.reason


def parameters_of(folder: Path, **options: object) -> dict[str, Any]:
    return fetcher(folder, **options)._parameters("0", folder, folder, _Log())


def test_plug_ins_get_their_options_and_secrets_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "web.gvs+hush")
    arguments = {
        "youtube": {"player_client": "web,tv", "po_token": "$A_TOKEN"},
        "youtubepot-Provider": {"base_url": "http://127.0.0.1:4416"},
    }
    options = SiteOptions(extractor_args=arguments)

    assert parameters_of(tmp_path, extractor_args=arguments)["extractor_args"] == {
        "youtube": {"player_client": ["web", "tv"], "po_token": ["web.gvs+hush"]},
        "youtubepot-provider": {"base_url": ["http://127.0.0.1:4416"]},
    }
    assert "hush" not in repr(options)
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(ConfigError, match="environment variable A_TOKEN"):
        parameters_of(tmp_path, extractor_args=arguments)


@pytest.mark.parametrize("name", ["po_token", "visitor_data", "data_sync_id", "password"])
def test_a_secret_in_a_recipe_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"youtube\.{name} holds a secret") as caught:
        SiteOptions(extractor_args={"youtube": {name: "hush"}})

    assert "hush" not in str(caught.value)


def test_videos_are_never_cut_by_whoever_downloads_them(tmp_path: Path) -> None:
    assert not {"download_ranges", "external_downloader", "force_keyframes_at_cuts"} & set(parameters_of(tmp_path))


def test_a_file_of_secrets_that_is_missing_is_named_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"sites\.cookies_file"):
        SiteOptions(cookies_file="/no/such/file")
