"""A proxy on loopback: tunnels and plain requests, for one user, to one port of this machine whatever host is named."""

import base64
import http.client
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.loopback import running

USER, PASSWORD = "laboratory", "pass-hush"


class ProxyServer(ThreadingHTTPServer):
    """Remembers the first line of each request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target_port = target_port
        self.asked: list[str] = []

    def url(self, password: str = PASSWORD) -> str:
        """As a user writes it into a file of proxies."""
        return f"http://{USER}:{password}@127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ProxyServer

    def log_message(self, *args: Any) -> None:
        """Silence."""

    def _may_pass(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        self.close_connection = True
        wanted = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        if self.headers.get("Proxy-Authorization") == wanted:
            return True
        self.send_error(407)
        return False

    def do_GET(self) -> None:
        if not self._may_pass():
            return
        there = http.client.HTTPConnection("127.0.0.1", self.server.target_port)
        kept = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        there.request("GET", urlsplit(self.path).path, headers=kept)
        answer = there.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "Location"):
            if answer.headers.get(name):
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        there.close()

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        with socket.create_connection(("127.0.0.1", self.server.target_port)) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    chunk = end.recv(65_536)
                    if not chunk:
                        return
                    ends[end].sendall(chunk)


@contextmanager
def proxy_server(target_port: int) -> Iterator[ProxyServer]:
    """The proxy on a free port of loopback, stopped at the end."""
    server = ProxyServer(target_port)
    with running(server):
        yield server
