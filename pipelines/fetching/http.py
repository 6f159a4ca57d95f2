"""Sources behind http and https addresses: checked, rate limited, bounded, resumed after a break, never trusted.

Every hop of a redirect passes the address check and the rate limit of its host. A break is resumed by Range only where
the server names its content by a validator (If-Range), so that two versions of a file are never joined.
"""

import contextlib
import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pipelines.clip import Row
from pipelines.codes import CODES
from pipelines.fetching.address import checked_target, split_address
from pipelines.fetching.answers import REFUSALS
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.connections import Connections, Route, request_line
from pipelines.fetching.credentials import Cookies, CookieSession, ProxyList, environment_proxy, require_files
from pipelines.fetching.http_answer import (
    as_fetch_error,
    content_coding,
    content_length,
    content_type,
    covered_length,
    joined,
    suffix_of,
    validator,
)
from pipelines.fetching.messages import answer_of_status, clean_reason, is_challenge
from pipelines.fetching.partial_download import PartialDownload
from pipelines.fetching.probe import check_media
from pipelines.fetching.rate_limit import RateLimiter, retry_after_s
from pipelines.fetching.stall_guard import ThroughputMonitor, deadline
from pipelines.fetching.store import Made, MediaStore
from uniform.deadline import Deadline
from uniform.retry import retrying

CHUNK_BYTES = 1 << 19
PAGE_BYTES = 8_192
"""Bytes of an error's page that are searched for a robot check."""
HOPS = 5
LONGEST_WAIT_S = 30.0
_WAITED_FOR = (*REFUSALS, "http_5xx")
"""Codes after which the rate limit of the host makes the next attempt wait."""
_NOT_NOW = ("host_paused", "daily_budget", "quiet_hours", "tls", "too_slow", "disk_full", "http_redirects")
"""Retryable, but not within minutes."""


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How files are requested, and the limits of one download. Credentials come from files, and are never written."""

    largest_bytes: int = 2 << 30
    attempts: int = 4
    retry_s: float = 2.0
    """Wait after a failed attempt; doubles with each, up to half a minute."""
    timeout_s: float = 30.0
    """For a connection, and for each read."""
    slowest_bytes_per_s: float = 2_000.0
    """Mean over the window below; a slower download is given up."""
    window_s: float = 60.0
    """Also the time limit of a response's whole head, where `timeout_s` is not longer."""
    user_agent: str = "uniform-toolkit (dataset preparation)"
    cookies_file: str | None = None
    """Netscape cookies file; a cookie goes to its own host only."""
    proxies_file: str | None = None
    """One address http://user:password@host:port a line; a source always takes the same one. None: the environment."""

    def __post_init__(self) -> None:
        require_files(self, "http", "cookies_file", "proxies_file")

    @property
    def deadline_s(self) -> float:
        """Time limit of what must come as a whole: the head of a response, a step of the content."""
        return max(self.timeout_s, self.window_s)


class HttpFetcher:
    """Fetches http and https addresses into a store.

    Args:
        store: receives the files.
        rate_limiter: asked for a turn before every request.
        options: of the requests, and the limits of a download.
        allow_hosts: names or addresses that are allowed to be private or local.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        store: MediaStore,
        rate_limiter: RateLimiter,
        options: HttpOptions,
        allow_hosts: tuple[str, ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._rate_limiter, self._options = store, rate_limiter, options
        self._allowed = frozenset(host.lower() for host in allow_hosts)
        self._clock, self._sleep = clock, sleep
        self._connections = Connections(options.timeout_s, options.deadline_s)
        self._proxies = ProxyList(options.proxies_file, ("http",)) if options.proxies_file else None
        self._cookies = Cookies(options.cookies_file)
        self._sock: socket.socket | None = None  # of the present response: some responses hide it from their connection

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("http", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, key, work))

    def _get(self, uri: str, key: str, work: Path) -> Made:
        repeat = retrying(
            attempts=self._options.attempts,
            first_wait_s=self._options.retry_s,
            longest_wait_s=LONGEST_WAIT_S,
            is_retryable=_is_worth_another,
            needs_wait=lambda error: getattr(error, "code", "") not in _WAITED_FOR,
            sleep=self._sleep,
        )
        return repeat(lambda: self._attempt(uri, key, PartialDownload(work)))

    def _attempt(self, uri: str, key: str, partial: PartialDownload) -> Made:
        began = self._clock()
        try:
            connection, response, route = self._open(uri, key, partial)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise as_fetch_error(error) from error
        try:
            self._take(response, connection, route, partial)
        except FetchError as error:
            self._rate_limiter.report(route.target.host, error.reason if error.code in REFUSALS else None)
            raise
        self._rate_limiter.report(route.target.host, None)
        metadata = {
            "uri": clean_reason(uri),
            "final_uri": clean_reason(route.target.url.geturl()),
            "format": partial.content_type or None,
            "seconds": round(self._clock() - began, 3),
        }
        return Made(partial.path, suffix_of(uri, partial.content_type), metadata, sha256=partial.sha256)

    def _take(
        self,
        response: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        route: Route,
        partial: PartialDownload,
    ) -> None:
        """Receive the content and check it; keep the connection where the response ended well. Raises FetchError."""
        try:
            with deadline(self._options.deadline_s, "more content", lambda: self._sock) as watch:
                self._receive(response, partial, watch)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise as_fetch_error(error) from error
        except BaseException:
            connection.close()
            raise
        response.close()
        if response.will_close:
            connection.close()
        else:
            self._connections.keep(route, connection)
        check_media(partial.path, whole=partial.total is not None, coding=content_coding(response.headers))

    def _open(
        self, uri: str, key: str, partial: PartialDownload
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, Route]:
        """Follow redirects to a response with content; its status and headers are checked."""
        cookies = self._cookies.session()
        for _ in range(HOPS + 1):
            route = self._route(uri, key)
            self._rate_limiter.take(route.target.host)
            connection, response = self._ask(route, self._headers(route, partial, cookies))
            try:
                location = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not location:
                    self._check(response, route, partial)
                    return connection, response, route
            except BaseException:
                connection.close()
                raise
            connection.close()
            cookies.keep(route.target.url.geturl(), response)
            uri = joined(uri, location)
        raise FetchError("http_redirects", f"more than {HOPS} redirects, the last to {clean_reason(uri)}")

    def _route(self, uri: str, key: str) -> Route:
        parts, host = split_address(uri)
        proxy = self._proxies.of(key) if self._proxies else environment_proxy(parts.scheme, host)
        return Route(checked_target(uri, self._allowed, by_proxy=proxy is not None), proxy)

    def _ask(
        self, route: Route, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send the request; again on a new connection where a kept one turns out to be closed."""
        url, for_proxy = request_line(route, _path(route))
        kept = self._connections.kept(route)
        if kept is not None:
            with contextlib.suppress(ConnectionError):
                return kept, self._answer(kept, url, headers | for_proxy)
        connection = self._connections.open(route)
        return connection, self._answer(connection, url, headers | for_proxy)

    def _answer(
        self, connection: http.client.HTTPConnection, url: str, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        self._sock = connection.sock
        try:
            with deadline(self._options.deadline_s, "the head of the answer", lambda: self._sock):
                connection.request("GET", url, headers=headers)
                return connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _headers(self, route: Route, partial: PartialDownload, cookies: CookieSession) -> dict[str, str]:
        headers = {"User-Agent": self._options.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if partial.offset and partial.validator:
            headers |= {"Range": f"bytes={partial.offset}-", "If-Range": partial.validator}
        return headers | cookies.headers(route.target.url.geturl())

    def _check(self, response: http.client.HTTPResponse, route: Route, partial: PartialDownload) -> None:
        """Judge status and headers by the table of answers, and prepare the partial download. Raises FetchError."""
        status, headers = response.status, response.headers
        if status not in (200, 203, 206):
            self._refuse(response, route, partial)
        length = content_length(headers)
        resumed = status == 206 and partial.offset > 0 and partial.validator is not None
        if resumed:
            partial.continues(headers.get("Content-Range") or "", validator(headers))
        elif status == 206:
            length = covered_length(headers)
            if length is None:
                partial.restart(None, None, "")
                found = headers.get("Content-Range")
                raise FetchError("bad_response", f"a part of the file that was not asked for: Content-Range {found!r}")
        if not resumed:
            partial.restart(validator(headers), length, content_type(headers))
        if partial.total is not None and partial.total > self._options.largest_bytes:
            raise FetchError(
                "too_large", f"{partial.total:,} bytes are announced, limit {self._options.largest_bytes:,}"
            )

    def _refuse(self, response: http.client.HTTPResponse, route: Route, partial: PartialDownload) -> None:
        """Raise the FetchError of a status without content, and count it for the host."""
        status, found = response.status, answer_of_status(response.status)
        code, refuses, page = found.code, found.refuses, b""
        limit = deadline(self._options.deadline_s, "the page of an error", lambda: self._sock)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, FetchError), limit:
            page = response.read1(PAGE_BYTES)
        if is_challenge(status, response.headers.keys(), page):
            code, refuses = "sign_in", True
        wait_s = retry_after_s(response.headers.get("Retry-After"))
        reason = f"HTTP {status} {response.reason}"
        if refuses or (wait_s is not None and CODES[code].policy == "retryable"):
            self._rate_limiter.report(route.target.host, reason, wait_s)
        elif CODES[code].policy != "retryable":
            self._rate_limiter.report(route.target.host, None)
        if code == "proxy":
            raise FetchError(code, f"{route.proxy}: {reason}")
        if code == "changed":
            partial.restart(None, None, "")
        raise FetchError(code, f"{reason}: {found.reason}" if found.code == code else f"{reason}: a robot check")

    def _receive(self, response: http.client.HTTPResponse, partial: PartialDownload, watch: Deadline) -> None:
        """Append the response's content to the partial download, within the options."""
        options, size = self._options, partial.offset
        meter = ThroughputMonitor(options.slowest_bytes_per_s, options.window_s, size, self._clock)
        with partial.growing() as append:
            while chunk := response.read1(CHUNK_BYTES):
                watch.put_off()
                size = append(chunk)
                if size > options.largest_bytes:
                    raise FetchError("too_large", f"more than {options.largest_bytes:,} bytes came")
                meter.judge(size)
        if partial.total is not None and size != partial.total:
            raise FetchError("incomplete", f"{size:,} bytes of {partial.total:,} came")


def _is_worth_another(error: BaseException) -> bool:
    return isinstance(error, FetchError) and CODES[error.code].policy == "retryable" and error.code not in _NOT_NOW


def _path(route: Route) -> str:
    target = route.target
    path = quote(target.url.path or "/", safe="/%:=&~+!$,;'@()*[]-._")
    return f"{path}?{quote(target.url.query, safe='/%:=&~+!$,;?@()*[]-._')}" if target.url.query else path
