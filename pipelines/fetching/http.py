"""Plain addresses over HTTP: checked, paced, bounded, gone on with after a break, and never trusted.

Every hop of a redirect passes the address check and the pace of its host. A break is gone on with by Range only where
the server names its content by a validator (If-Range), so that two versions of a file are never sewn together.
"""

import contextlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin, urlsplit

from pipelines.clip import Row
from pipelines.codes import CODES
from pipelines.fetching.address import checked_target, split_address
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.connections import Connections, Way, request_line
from pipelines.fetching.credentials import Cookies, ProxyList, environment_proxy, require_files
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from pipelines.fetching.partial_download import Part
from pipelines.fetching.probe import check_media
from pipelines.fetching.rate_limit import RateLimiter, retry_after_s
from pipelines.fetching.stall_guard import Deadline, ThroughputMonitor, deadline
from pipelines.fetching.store import Made, MediaStore

CHUNK_BYTES = 1 << 19
HOPS = 5
SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv", ".gif"}
_NUMBER = re.compile(r"[0-9]{1,18}")
_REFUSALS = ("http_429", "http_5xx")
_FINAL = ("host_paused", "daily_budget", "quiet_hours", "tls", "too_slow", "disk_full")
"""Transient, but not within minutes."""


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How an address is asked, and the bounds of one download. Secrets come from files, and are never written."""

    largest_bytes: int = 2 << 30
    attempts: int = 4
    retry_s: float = 2.0
    """Rest after a failed attempt; doubles with each, up to half a minute."""
    timeout_s: float = 30.0
    """For a connection, and for each read."""
    slowest_bytes_per_s: float = 2_000.0
    """Mean over the window below; slower is given up."""
    window_s: float = 60.0
    """Also the longest that an answer's head may take as a whole, where `timeout_s` is not longer."""
    user_agent: str = "uniform-toolkit (data set preparation)"
    cookies_file: str | None = None
    """Netscape cookies file; a cookie goes to its own host alone."""
    proxies_file: str | None = None
    """One address http://user:password@host:port a line; a source always takes the same one. None: the environment."""

    def __post_init__(self) -> None:
        require_files(self, "http", "cookies_file", "proxies_file")

    @property
    def deadline_s(self) -> float:
        """For what must come whole: an answer's head, a proxy's, a step of the content."""
        return max(self.timeout_s, self.window_s)


class HttpFetcher:
    """Fetches addresses over http and https into a store.

    Args:
        store: receives the files.
        pace: asked before every request.
        options: how to ask, and the bounds of a download.
        allow_hosts: names or addresses that may be private or local.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        store: MediaStore,
        pace: RateLimiter,
        options: HttpOptions,
        allow_hosts: tuple[str, ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._rate_limiter, self._options = store, pace, options
        self._allowed = frozenset(host.lower() for host in allow_hosts)
        self._clock, self._sleep = clock, sleep
        self._connections = Connections(options.timeout_s, options.deadline_s)
        self._proxies = ProxyList(options.proxies_file, ("http",)) if options.proxies_file else None
        self._cookies = Cookies(options.cookies_file)
        self._sock: socket.socket | None = None  # of the present answer: some answers hide it from their connection

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("http", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, key, work))

    def _get(self, uri: str, key: str, work: Path) -> Made:
        for attempt in range(1, self._options.attempts + 1):
            try:
                return self._attempt(uri, key, Part(work))
            except FetchError as error:
                final = CODES[error.code].policy != "retryable" or error.code in _FINAL
                if final or attempt == self._options.attempts:
                    raise
                if error.code not in _REFUSALS:  # after those the pace itself makes us wait
                    self._sleep(min(self._options.retry_s * 2 ** (attempt - 1), 30.0))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, uri: str, key: str, part: Part) -> Made:
        began = self._clock()
        try:
            connection, response, way = self._open(uri, key, part)
            try:
                with deadline(self._options.deadline_s, "more content", lambda: self._sock) as watch:
                    self._receive(response, part, watch)
            except BaseException:
                connection.close()
                raise
        except (OSError, http.client.HTTPException) as error:
            raise _as_fetch_error(error) from error
        response.close()
        if response.will_close:
            connection.close()
        else:
            self._connections.keep(way, connection)
        check_media(part.path, whole=part.total is not None)
        facts = {
            "uri": clean_reason(uri),
            "final_uri": clean_reason(way.target.url.geturl()),
            "format": part.content_type or None,
            "seconds": round(self._clock() - began, 3),
        }
        return Made(part.path, _suffix(uri, part.content_type), facts, sha256=part.sha256)

    def _open(self, uri: str, key: str, part: Part) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, Way]:
        """Follow redirects to an answer with content; its status and headers are checked."""
        for _ in range(HOPS + 1):
            way = self._way(uri, key)
            self._rate_limiter.take(way.target.host)
            connection, response = self._ask(way, self._headers(way, part))
            try:
                location = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not location:
                    self._check(response, way, part)
                    return connection, response, way
            except BaseException:
                connection.close()
                raise
            connection.close()
            self._rate_limiter.report(way.target.host, None)
            uri = _joined(uri, location)
        raise FetchError("http_redirects", f"more than {HOPS} redirects, the last to {clean_reason(uri)}")

    def _way(self, uri: str, key: str) -> Way:
        parts, host = split_address(uri)
        proxy = self._proxies.of(key) if self._proxies else environment_proxy(parts.scheme, host)
        return Way(checked_target(uri, self._allowed, by_proxy=proxy is not None), proxy)

    def _ask(self, way: Way, headers: dict[str, str]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send the request, once more where a connection of before turns out to be closed."""
        url, for_proxy = request_line(way, _path(way))
        kept = self._connections.kept(way)
        if kept is not None:
            with contextlib.suppress(ConnectionError):
                return kept, self._answer(kept, url, headers | for_proxy)
        connection = self._connections.open(way)
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

    def _headers(self, way: Way, part: Part) -> dict[str, str]:
        headers = {"User-Agent": self._options.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if part.offset and part.validator:
            headers |= {"Range": f"bytes={part.offset}-", "If-Range": part.validator}
        return headers | self._cookies.headers(way.target.url.geturl())

    def _check(self, response: http.client.HTTPResponse, way: Way, part: Part) -> None:
        """Judge status and headers, and set up the part. Raises FetchError."""
        status, headers = response.status, response.headers
        if status in (429, 503):
            self._rate_limiter.report(way.target.host, f"HTTP {status}", retry_after_s(headers.get("Retry-After")))
        elif status < 500:
            self._rate_limiter.report(way.target.host, None)
        if status == 407:
            raise FetchError("proxy", f"{way.proxy}: HTTP 407 {response.reason}")
        if status == 416:
            part.restart(None, None, "")
            raise FetchError("changed", "HTTP 416: the file is no longer as long as the part that we have")
        if status not in (200, 206):
            raise FetchError(code_of_status(status), f"HTTP {status} {response.reason}")
        kind = (headers.get("Content-Type") or "").split(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise FetchError("not_media", f"the server answers with a page ({kind})")
        if (headers.get("Content-Encoding") or "identity").lower() != "identity":
            raise FetchError(
                "bad_response", f"content encoded as {headers['Content-Encoding']}, which was not asked for"
            )
        announced = headers.get("Content-Length") or ""
        length = int(announced) if _NUMBER.fullmatch(announced) else None
        if status == 206:
            part.continues(headers.get("Content-Range") or "", _validator(headers))
        else:
            part.restart(_validator(headers), length, kind)
        if part.total is not None and part.total > self._options.largest_bytes:
            raise FetchError("too_large", f"{part.total:,} bytes are announced, limit {self._options.largest_bytes:,}")

    def _receive(self, response: http.client.HTTPResponse, part: Part, watch: Deadline) -> None:
        """Append the answer's content to the part, within the options."""
        options, size = self._options, part.offset
        meter = ThroughputMonitor(options.slowest_bytes_per_s, options.window_s, size, self._clock)
        with part.growing() as append:
            while chunk := response.read1(CHUNK_BYTES):
                watch.put_off()
                size = append(chunk)
                if size > options.largest_bytes:
                    raise FetchError("too_large", f"more than {options.largest_bytes:,} bytes came")
                meter.judge(size)
        if part.total is not None and size != part.total:
            raise FetchError("incomplete", f"{size:,} bytes came of {part.total:,}")


def _joined(uri: str, location: str) -> str:
    try:
        return urljoin(uri, location)
    except ValueError as error:
        raise FetchError("bad_response", f"a redirect to what is no address: {error}") from error


def _path(way: Way) -> str:
    target = way.target
    path = quote(target.url.path or "/", safe="/%:=&~+!$,;'@()*[]-._")
    return f"{path}?{quote(target.url.query, safe='/%:=&~+!$,;?@()*[]-._')}" if target.url.query else path


def _validator(headers: http.client.HTTPMessage) -> str | None:
    """A strong name of the content: its ETag, or the time of its last change."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified")


def _suffix(uri: str, content_type: str) -> str:
    suffix = PurePosixPath(urlsplit(uri).path).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    return {"video/webm": ".webm", "video/x-matroska": ".mkv", "video/quicktime": ".mov"}.get(content_type, ".mp4")


def _as_fetch_error(error: Exception) -> FetchError:
    """A failure of the socket, of TLS or of HTTP itself, as plain data."""
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", clean_reason(str(error)))
    if isinstance(error, TimeoutError):
        return FetchError("timeout", clean_reason(str(error) or "no answer"))
    if isinstance(error, http.client.IncompleteRead):
        return FetchError("incomplete", clean_reason(str(error)))
    if isinstance(error, http.client.RemoteDisconnected):
        return FetchError("connection", "the server closed the connection without an answer")
    if isinstance(error, http.client.HTTPException):
        return FetchError("bad_response", clean_reason(f"{type(error).__name__}: {error}"))
    code = code_of_message(str(error))
    return FetchError("connection" if code == "unknown" else code, clean_reason(str(error)))
