"""A server on loopback that answers with bytes: what no server of the standard library would send."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answerer = Callable[[bytes, int], bytes]
"""(head of the request, its number from 0) -> the bytes of the response; the connection is closed after them."""


class RawServer(socketserver.ThreadingTCPServer):
    """Keeps the heads of the requests."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answerer: Answerer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answerer = answerer
        self.requests: list[bytes] = []
        self.lock = threading.Lock()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}{path}"

    def paths(self) -> list[str]:
        """The request targets."""
        return [head.split(b" ", 2)[1].decode("latin-1") for head in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected."""


class _Handler(socketserver.BaseRequestHandler):
    server: RawServer
    request: socket.socket

    def handle(self) -> None:
        head = b""
        self.request.settimeout(10)
        while b"\r\n\r\n" not in head:
            chunk = self.request.recv(65_536)
            if not chunk:
                return
            head += chunk
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(head)
        with suppress(OSError):
            self.request.sendall(self.server.answerer(head, number))
            self.request.shutdown(socket.SHUT_WR)
            self.request.recv(1)  # a close with unread bytes would reset the connection under the client


@contextmanager
def raw_server(answerer: Answerer) -> Iterator[RawServer]:
    """The server on a free port, stopped at the end."""
    server = RawServer(answerer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
