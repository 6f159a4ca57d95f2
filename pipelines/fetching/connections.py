"""Connections to checked addresses, direct or through a proxy, and kept open for later requests."""

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cached_property

from pipelines.fetching.address import Target
from pipelines.fetching.base import FetchError
from pipelines.fetching.credentials import Proxy
from pipelines.fetching.http_answer import Response
from pipelines.fetching.stall_guard import deadline

IDLE_S = 10.0
"""Idle time after which a connection is not used again: hosts close theirs after 5 to 75 s."""
KEPT = 4
"""Idle connections that are kept: redirects alternate between hosts."""


@dataclass(frozen=True)
class Route:
    """The target of a request, and the proxy on the way to it."""

    target: Target
    proxy: Proxy | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for requests that can share a connection."""
        url = self.target.url
        return (url.scheme, self.target.host, self.target.ip, self.target.port, self.proxy)


class Connections:
    """Opens the connections of a worker, and keeps a few idle ones.

    Args:
        timeout_s: for opening one, and for each read.
        deadline_s: for a proxy's whole response.
    """

    def __init__(self, timeout_s: float, deadline_s: float) -> None:
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self._idle: dict[tuple[object, ...], tuple[float, http.client.HTTPConnection]] = {}

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # reads all certificates of the machine: only where TLS is spoken

    def kept(self, route: Route) -> http.client.HTTPConnection | None:
        """An idle connection, or None; the host may have closed it."""
        since, connection = self._idle.pop(route.key, (0.0, None))
        if connection is None or time.monotonic() - since < IDLE_S:
            return connection
        connection.close()
        return None

    def keep(self, route: Route, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose response was read to its end."""
        for key in list(self._idle)[: max(0, len(self._idle) - KEPT + 1)]:
            self._idle.pop(key)[1].close()
        self._idle[route.key] = (time.monotonic(), connection)

    def open(self, route: Route) -> http.client.HTTPConnection:
        """A new connection to the checked address, whatever the name resolves to now.

        Through a proxy, TLS goes to that address too. Plain HTTP must name the host to the proxy, which looks it up
        again. Raises: FetchError `proxy` where the proxy fails; OSError where the host does.
        """
        target, secure = route.target, route.target.url.scheme == "https"
        if route.proxy is None:
            sock = socket.create_connection((target.ip, target.port), timeout=self._timeout_s)
        else:
            sock = self._through(route.proxy, target if secure else None)
        if not secure:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)
        else:
            try:
                sock = self._context.wrap_socket(
                    sock, server_hostname=target.host
                )  # the timeout of the socket covers the handshake
            except BaseException:
                sock.close()
                raise
            connection = http.client.HTTPSConnection(
                target.host, target.port, timeout=self._timeout_s, context=self._context
            )
        connection.sock = sock
        connection.response_class = Response
        return connection

    def _through(self, proxy: Proxy, target: Target | None) -> socket.socket:
        """A socket to the proxy; with a target, a tunnel through it."""
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=self._timeout_s)
        if target is not None:
            name = f"[{target.ip}]" if ":" in target.ip else target.ip
            connection.set_tunnel(name, target.port, headers=proxy.headers)
        try:
            with deadline(self._deadline_s, "the proxy's tunnel", lambda: connection.sock):
                connection.connect()
        except FetchError as error:
            connection.close()
            raise FetchError("proxy", f"{proxy}: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise FetchError("proxy", f"{proxy}: {error}") from error
        sock: socket.socket = connection.sock
        return sock


def request_line(route: Route, path: str) -> tuple[str, dict[str, str]]:
    """(target of the request line, headers for the proxy). A proxy without a tunnel gets the whole URL."""
    if route.proxy is None or route.target.url.scheme == "https":
        return path, {}
    host = f"[{route.target.host}]" if ":" in route.target.host else route.target.host
    return f"http://{host}:{route.target.port}{path}", route.proxy.headers
