"""Plain addresses over HTTP: checked, paced, bounded, gone on with after a break, and never trusted.

Every hop of a redirect passes the address check and the pace of its host. Connections go to the address that was
checked. A break is gone on with by Range only where the server names its content by a validator (If-Range), so that
two versions of a file are never sewn together.
"""

import email.utils
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin, urlsplit

from pipelines.clip import Row
from pipelines.codes import CODES
from pipelines.fetching.address import Target, checked_target
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from pipelines.fetching.pace import Pace
from pipelines.fetching.store import Made, MediaStore
from uniform.fingerprint import canonical_json

CHUNK_BYTES = 1 << 18
HOPS = 5
SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp", ".flv", ".gif"}
_REFUSALS = ("http_429", "http_5xx")


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Bounds of one download."""

    largest_bytes: int = 2 << 30
    attempts: int = 4
    retry_s: float = 2.0
    """Rest after a failed attempt; doubles with each, up to half a minute."""
    timeout_s: float = 30.0
    """For a connection, and for each read."""
    slowest_bytes_per_s: float = 2_000.0
    """Mean over the window below; slower is given up."""
    window_s: float = 60.0
    user_agent: str = "uniform-toolkit (data set preparation)"


class HttpFetcher:
    """Fetches addresses over http and https into a store.

    Args:
        store: receives the files.
        pace: asked before every request.
        limits: bounds of a download.
        allow_hosts: names or addresses that may be private or local.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        store: MediaStore,
        pace: Pace,
        limits: HttpLimits,
        allow_hosts: tuple[str, ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._pace, self._limits = store, pace, limits
        self._allowed = frozenset(host.lower() for host in allow_hosts)
        self._clock, self._sleep = clock, sleep
        self._context = ssl.create_default_context()

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("http", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, work))

    def _get(self, uri: str, work: Path) -> Made:
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return self._attempt(uri, _Part(work))
            except FetchError as error:
                final = CODES[error.code].policy != "transient" or error.code in ("host_paused", "daily_budget")
                if final or attempt == self._limits.attempts or error.code in ("quiet_hours", "tls", "too_slow"):
                    raise
                if error.code not in _REFUSALS:  # after those the pace itself makes us wait
                    self._sleep(min(self._limits.retry_s * 2 ** (attempt - 1), 30.0))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, uri: str, part: "_Part") -> Made:
        began = self._clock()
        try:
            connection, response, target = self._open(uri, part)
            try:
                self._receive(response, part)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise _as_fetch_error(error) from error
        part.check_content()
        facts = {"uri": clean_reason(uri), "final_uri": clean_reason(target.url.geturl()), "type": part.content_type}
        seconds = self._clock() - began
        return Made(part.path, _suffix(uri, part.content_type), {**facts, "seconds": round(seconds, 3)})

    def _open(self, uri: str, part: "_Part") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, Target]:
        """Follow redirects to an answer with content; its status and headers are checked."""
        for _ in range(HOPS + 1):
            target = checked_target(uri, self._allowed)
            self._pace.take(target.host)
            connection = _connection(target, self._limits.timeout_s, self._context)
            try:
                connection.request("GET", _path(target), headers=self._headers(target, part))
                response = connection.getresponse()
                location = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and location:
                    self._pace.report(target.host, None)
                    uri = urljoin(uri, location)
                    connection.close()
                    continue
                self._check(response, target, part)
            except BaseException:
                connection.close()
                raise
            return connection, response, target
        raise FetchError("http_redirects", f"more than {HOPS} redirects, the last to {clean_reason(uri)}")

    def _headers(self, target: Target, part: "_Part") -> dict[str, str]:
        headers = {"User-Agent": self._limits.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if part.offset and part.validator:
            headers |= {"Range": f"bytes={part.offset}-", "If-Range": part.validator}
        return headers

    def _check(self, response: http.client.HTTPResponse, target: Target, part: "_Part") -> None:
        """Judge status and headers, and set up the part. Raises FetchError."""
        status, headers = response.status, response.headers
        if status in (429, 503):
            self._pace.report(target.host, f"HTTP {status}", _retry_after_s(headers.get("Retry-After")))
        elif status < 500:
            self._pace.report(target.host, None)
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
        length = int(headers["Content-Length"]) if (headers.get("Content-Length") or "").isdigit() else None
        if status == 206:
            part.continues(headers.get("Content-Range") or "", _validator(headers))
        else:
            part.restart(_validator(headers), length, kind)
        if part.total is not None and part.total > self._limits.largest_bytes:
            raise FetchError("too_large", f"{part.total:,} bytes are announced, limit {self._limits.largest_bytes:,}")

    def _receive(self, response: http.client.HTTPResponse, part: "_Part") -> None:
        """Append the answer's content to the part, within the limits."""
        limits, window_began, window_bytes = self._limits, self._clock(), 0
        with part.path.open("ab") as file:
            while chunk := response.read1(CHUNK_BYTES):
                file.write(chunk)
                window_bytes += len(chunk)
                if file.tell() > limits.largest_bytes:
                    raise FetchError("too_large", f"more than {limits.largest_bytes:,} bytes came")
                elapsed = self._clock() - window_began
                if elapsed >= limits.window_s:
                    if window_bytes < limits.slowest_bytes_per_s * elapsed:
                        raise FetchError("too_slow", f"{window_bytes:,} bytes in {elapsed:.0f} s")
                    window_began, window_bytes = self._clock(), 0
        if part.total is not None and part.offset != part.total:
            raise FetchError("incomplete", f"{part.offset:,} bytes came of {part.total:,}")


class _Part:
    """What has come of a source so far, and by what the server names that content."""

    def __init__(self, work: Path) -> None:
        self.path, self._facts = work / "part", work / "part.json"
        self.validator: str | None = None
        self.total: int | None = None
        self.content_type = ""
        try:
            found = json.loads(self._facts.read_bytes())
            self.validator, self.total, self.content_type = found["validator"], found["total"], found["type"]
        except (FileNotFoundError, ValueError, KeyError):
            self.path.unlink(missing_ok=True)  # a part of unknown origin must not be gone on with
        if self.total is None or self.offset >= self.total:
            self.path.unlink(missing_ok=True)

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def restart(self, validator: str | None, total: int | None, content_type: str) -> None:
        """Begin anew with content of this name and length."""
        self.path.unlink(missing_ok=True)
        self.validator, self.total, self.content_type = validator, total, content_type
        facts = {"validator": validator, "total": total, "type": content_type}
        self._facts.write_text(canonical_json(facts))

    def continues(self, content_range: str, validator: str | None) -> None:
        """Check that a partial answer goes on where we stand, with the same content. Raises FetchError `changed`."""
        wanted = f"bytes {self.offset}-"
        total = content_range.rpartition("/")[2]
        if not content_range.startswith(wanted) or total != str(self.total) or validator not in (None, self.validator):
            found = f"the rest is {content_range!r} of {validator}, wanted {wanted}.../{self.total} of {self.validator}"
            self.restart(None, None, "")
            raise FetchError("changed", found)

    def check_content(self) -> None:
        """Raises FetchError for what is plainly no media: nothing, a page, a message."""
        if self.offset == 0:
            raise FetchError("empty_file", "the server sent nothing")
        with self.path.open("rb") as file:
            head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b'{"', b"[{")):
            raise FetchError("not_media", f"the content is a page or a message: {head[:40]!r}")


def _connection(target: Target, timeout_s: float, context: ssl.SSLContext) -> http.client.HTTPConnection:
    """A connection to the address that was checked, whatever the name resolves to by now."""
    sock = socket.create_connection((target.ip, target.port), timeout=timeout_s)
    if target.url.scheme == "http":
        connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
    else:
        try:
            sock = context.wrap_socket(sock, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPSConnection(target.host, target.port, timeout=timeout_s, context=context)
    connection.sock = sock
    return connection


def _path(target: Target) -> str:
    path = quote(target.url.path or "/", safe="/%:=&~+!$,;'@()*[]-._")
    return f"{path}?{quote(target.url.query, safe='/%:=&~+!$,;?@()*[]-._')}" if target.url.query else path


def _validator(headers: http.client.HTTPMessage) -> str | None:
    """A strong name of the content: its ETag, or the time of its last change."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified")


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None where it is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


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
