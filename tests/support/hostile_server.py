"""A hostile little internet on loopback: every way in which a video host misbehaves, one path for each."""

import bisect
import hashlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.loopback import running

TYPES = {".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml", ".ts": "video/mp2t"}


def body(name: str, size: int = 100_000) -> bytes:
    """Content with the outermost structure of an MP4 file; it differs from name to name."""
    block = hashlib.sha256(name.encode()).digest()
    head = b"\0\0\0\x18ftypmp42" + block[:12] + b"\0\0\0\x08moov" + (size - 32).to_bytes(4, "big") + b"mdat"
    return (head + block * (size // 32))[:size]


class HostileServer(ThreadingHTTPServer):
    """Counts requests by path, remembers when they came and with which Range headers, and can leave the network."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self._scheme = "https"
        self.requests: Counter[str] = Counter()
        self.ranges: list[tuple[str, str | None]] = []
        self.agents: set[str | None] = set()
        self.cookies: list[tuple[str, str | None]] = []
        self.times_s: list[float] = []
        self.connections = 0
        self.files: dict[str, bytes] = {}
        """Path -> content, for what must be real media."""
        self.cut: dict[str, bytes] = {}
        """The same, for what breaks off in the middle."""
        self.lock = threading.Lock()
        self._network = threading.Event()
        self._network.set()
        self._connections: set[socket.socket] = set()

    @contextmanager
    def network_off(self) -> Iterator[None]:
        """Open connections break; new ones are closed at once or hang until the network is back, by turns."""
        self._network.clear()
        with self.lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self._network.set()

    def fastest(self, span_s: float) -> int:
        """The most requests that came within any span of so many seconds."""
        times = sorted(self.times_s)
        return max(bisect.bisect_right(times, first + span_s) - at for at, first in enumerate(times))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """A connection from its beginning to its end, in a thread of its own."""
        with self.lock:
            self.connections += 1
            self._connections.add(request)
            hangs = len(self._connections) % 2 == 0
        if self._network.is_set():
            super().process_request_thread(request, client_address)
        else:
            if hangs:
                self._network.wait()
            self.shutdown_request(request)
        with self.lock:
            self._connections.discard(request)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostileServer

    def log_message(self, *args: Any) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        with self.server.lock:
            self.server.requests[path] += 1
            self.server.ranges.append((path, self.headers.get("Range")))
            self.server.agents.add(self.headers.get("User-Agent"))
            self.server.cookies.append((path, self.headers.get("Cookie")))
            self.server.times_s.append(time.monotonic())
            count = self.server.requests[path]
        self.close_connection = not path.startswith("/kept")
        if path in self.server.files:
            self._send(200, self.server.files[path], Content_Type=TYPES.get(Path(path).suffix, "video/mp4"))
            return
        if path in self.server.cut:
            content = self.server.cut[path]
            self._send(200, content[: len(content) // 2], Content_Length=str(len(content)))
            return
        name = path.strip("/").split("/")[0].replace("-", "_")
        getattr(self, f"_{name}", self._not_found)(path, count)

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        fields = {"Content_Type": "video/mp4", "Content_Length": str(len(content)), **headers}
        for field, value in fields.items():
            if value:
                self.send_header(field.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _not_found(self, path: str, count: int) -> None:
        self._send(404, b"no", Content_Type="text/plain")

    def _ok(self, path: str, count: int) -> None:
        self._send(200, body(path))

    def _members(self, path: str, count: int) -> None:
        if self.headers.get("Cookie"):
            self._send(200, body(path))
        else:
            self._send(403, b"no")

    def _kept(self, path: str, count: int) -> None:
        """Leaves the connection open for the next request."""
        self._send(200, body(path))

    def _no_length(self, path: str, count: int) -> None:
        self._send(200, body(path), Content_Length="")

    def _status(self, path: str, count: int) -> None:
        self._send(int(path.split("/")[2]), b"no", Content_Type="text/plain")

    def _busy(self, path: str, count: int) -> None:
        """429 with Retry-After once, then fine."""
        if count == 1:
            self._send(429, b"", Retry_After="7")
        else:
            self._ok(path, count)

    def _overloaded(self, path: str, count: int) -> None:
        """503 with Retry-After once, then fine."""
        if count == 1:
            self._send(503, b"", Retry_After="9")
        else:
            self._ok(path, count)

    def _two(self, path: str, count: int) -> None:
        """A page with two videos."""
        videos = '<video src="/ok/a.mp4"></video><video src="/ok/b.mp4"></video>'
        self._send(200, f"<!DOCTYPE html><html><body>{videos}</body></html>".encode(), Content_Type="text/html")

    def _always_busy(self, path: str, count: int) -> None:
        self._send(429, b"")

    def _shaky(self, path: str, count: int) -> None:
        """500 twice, then fine."""
        self._send(500, b"") if count < 3 else self._ok(path, count)

    def _hop(self, path: str, count: int) -> None:
        self._send(302, b"", Location="/ok/after-hop")

    def _loop(self, path: str, count: int) -> None:
        self._send(302, b"", Location=path)

    def _to(self, path: str, count: int) -> None:
        """Redirects to an address that must not be visited."""
        places = {"file": "file:///etc/passwd", "private": "http://10.0.0.1/", "nowhere": "http://[::bad/"}
        self._send(302, b"", Location=places[path.split("/")[2]])

    def _odd_numbers(self, path: str, count: int) -> None:
        """Numbers in headers that no number reader takes."""
        self._send(
            429 if count == 1 else 200, body(path), Content_Length="\xb2" if count > 1 else "0", Retry_After="\xb2"
        )

    def _page(self, path: str, count: int) -> None:
        self._send(200, b"<!DOCTYPE html><html><body>Not here</body></html>", Content_Type="text/html; charset=utf-8")

    def _page_as_video(self, path: str, count: int) -> None:
        self._send(200, b"<!DOCTYPE html><html><body>404</body></html>")

    def _message_as_video(self, path: str, count: int) -> None:
        self._send(200, b'{"error": "quota"}')

    def _empty(self, path: str, count: int) -> None:
        self._send(200, b"")

    def _huge(self, path: str, count: int) -> None:
        self._send(200, body(path), Content_Length=str(10 << 30))

    def _endless(self, path: str, count: int) -> None:
        self._send(200, b"", Content_Length="")
        block = body(path, 65_536)
        for _ in range(2_000):
            self.wfile.write(block)

    def _gzip(self, path: str, count: int) -> None:
        self._send(200, b"\x1f\x8b" + b"\0" * 100, Content_Encoding="gzip")

    def _short(self, path: str, count: int) -> None:
        """Promises more than it sends, and names its content by nothing."""
        self._send(200, body(path)[:1000], Content_Length="100000")

    def _cut(self, path: str, count: int) -> None:
        """Ends in the middle, and nobody could have known when it began."""
        self._send(200, body(path)[:50_000], Content_Length="")

    def _cut_at_home(self, path: str, count: int) -> None:
        """The file of the server itself is cut."""
        self._send(200, body(path)[:50_000])

    def _tiny(self, path: str, count: int) -> None:
        """A file of 262 bytes, as section downloads leave behind the end."""
        self._send(200, body(path, 262))

    def _hang_up(self, path: str, count: int) -> None:
        self.connection.close()

    def _nonsense(self, path: str, count: int) -> None:
        self.wfile.write(b"what?\r\n\r\n")

    def _silent(self, path: str, count: int) -> None:
        time.sleep(3)

    def _drip(self, path: str, count: int) -> None:
        self._send(200, b"\0", Content_Length="1000000")
        for _ in range(200):
            self.wfile.write(b"\0")
            self.wfile.flush()
            time.sleep(0.01)

    def _slow_head(self, path: str, count: int) -> None:
        """A byte of the head every 0.2 s, and no end of it."""
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 20:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.2)

    def _slow_chunk(self, path: str, count: int) -> None:
        """A byte of a chunk's size every 0.2 s, and no end of it."""
        self._send(200, b"", Content_Length="", Transfer_Encoding="chunked")
        for _ in range(40):
            self.wfile.write(b"0")
            self.wfile.flush()
            time.sleep(0.2)

    def _trickle(self, path: str, count: int) -> None:
        """A drip of a kilobyte at a time."""
        self._send(200, b"", Content_Length="1000000")
        for _ in range(60):
            self.wfile.write(b"\0" * 2_000)
            self.wfile.flush()
            time.sleep(0.03)

    def _resume(self, path: str, count: int) -> None:
        """Breaks off once after 30,000 bytes; goes on by Range."""
        self._ranged(path, count, tag='"one"', cut=30_000 if count == 1 else None)

    def _changing(self, path: str, count: int) -> None:
        """Breaks off, and is another file by the next request."""
        self._ranged(f"{path}{min(count, 2)}", count, tag=f'"{min(count, 2)}"', cut=30_000 if count == 1 else None)

    def _lying_range(self, path: str, count: int) -> None:
        """Answers a Range with another span than was asked for."""
        if count == 2:
            self._send(206, body(path)[10:], ETag='"one"', Content_Range="bytes 10-99999/100000")
        else:
            self._ranged(path, count, tag='"one"', cut=30_000 if count == 1 else None)

    def _ignores_range(self, path: str, count: int) -> None:
        content = body(path)
        if count == 1:
            self._send(200, content[:30_000], Content_Length=str(len(content)), ETag='"one"')
        else:
            self._send(200, content, ETag='"one"')

    def _not_satisfiable(self, path: str, count: int) -> None:
        if count == 2:
            self._send(416, b"")
        else:
            self._ranged(path, count, tag='"one"', cut=30_000 if count == 1 else None)

    def _slow(self, path: str, count: int) -> None:
        """Whole, but in small steps: time to kill the client."""
        content = body(path)
        first = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        whole = f"bytes {first}-{len(content) - 1}/{len(content)}" if first else ""
        self._send(
            206 if first else 200, b"", Content_Length=str(len(content) - first), ETag='"s"', Content_Range=whole
        )
        for at in range(first, len(content), 2_000):
            self.wfile.write(content[at : at + 2_000])
            self.wfile.flush()
            time.sleep(0.02 if first == 0 else 0)

    def _ranged(self, name: str, count: int, tag: str, cut: int | None) -> None:
        content = body(name)
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == tag:
            first = int(wanted.split("=")[1].rstrip("-"))
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._send(206, content[first:], ETag=tag, Content_Range=span)
        else:
            self._send(200, content[:cut], ETag=tag, Content_Length=str(len(content)))

    def _watch(self, path: str, count: int) -> None:
        """A page with an embedded video."""
        source = path.split("/", 2)[2]
        video = f'<video src="/{source}"></video>'
        page = f"<!DOCTYPE html><html><head><title>A clip</title></head><body>{video}</body></html>"
        self._send(200, page.encode(), Content_Type="text/html")


@contextmanager
def hostile_server(certificate: Path | None = None) -> Iterator[HostileServer]:
    """The server on a free port of loopback, stopped at the end; with a certificate (PEM, key inside) it speaks TLS."""
    server = HostileServer(certificate)
    with running(server):
        yield server
