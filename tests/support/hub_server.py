"""A hub on this machine: serves folders as huggingface_hub expects them, and drops connections on demand."""

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.hub_cache import COMMIT
from tests.support.loopback import running


@dataclass
class Hub:
    """What a server serves and what it was asked."""

    repositories: dict[str, Path]
    drop_after_bytes: int | None = None
    """The next download ends after so many bytes, once."""
    ranges: list[str] = field(default_factory=list)
    """The Range header of every download that had one."""
    downloads: int = 0
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        file = None
        if len(parts) >= 5 and parts[2] == "resolve" and f"{parts[0]}/{parts[1]}" in self.hub.repositories:
            file = self.hub.repositories[f"{parts[0]}/{parts[1]}"].joinpath(*parts[4:])
        if file is None or not file.is_file():
            self.send_response(404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", "EntryNotFound" if file is not None else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(file.read_bytes(), body)

    def _send(self, content: bytes, body: bool) -> None:
        start, wanted = 0, self.headers.get("Range")
        if wanted and body:
            self.hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        self.hub.downloads += 1
        dropped = self.hub.drop_after_bytes
        if dropped is not None and len(content) > dropped:
            self.hub.drop_after_bytes = None
            self.wfile.write(content[start : start + dropped])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(content[start:])


@contextlib.contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub that serves each folder under its id, every revision being the same commit."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    with running(server) as hub.url:
        yield hub
