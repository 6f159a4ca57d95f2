"""Connections to addresses that were checked: straight or through a proxy, kept open for the requests that follow."""

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cached_property

from pipelines.fetching.address import Target
from pipelines.fetching.base import FetchError
from pipelines.fetching.credentials import Proxy
from pipelines.fetching.stall_guard import deadline

IDLE_S = 10.0
"""How long an open connection is believed in: hosts close theirs after 5 to 75 s."""
KEPT = 4
"""Hosts of redirects take turns."""


@dataclass(frozen=True)
class Way:
    """Where a request goes, and by which proxy."""

    target: Target
    proxy: Proxy | None = None

    @property
    def ends(self) -> tuple[object, ...]:
        """What a connection must have in common to be used again."""
        url = self.target.url
        return (url.scheme, self.target.host, self.target.ip, self.target.port, self.proxy)


class Connections:
    """Opens connections of a worker, and keeps a few that were left in good order.

    Args:
        timeout_s: for opening one, and for each read.
        deadline_s: for the whole of a proxy's answer.
    """

    def __init__(self, timeout_s: float, deadline_s: float) -> None:
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self._idle: dict[tuple[object, ...], tuple[float, http.client.HTTPConnection]] = {}

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # reads all certificates of the machine: only where TLS is spoken

    def kept(self, way: Way) -> http.client.HTTPConnection | None:
        """A connection of before, which the host may have closed meanwhile."""
        since, connection = self._idle.pop(way.ends, (0.0, None))
        if connection is None or time.monotonic() - since < IDLE_S:
            return connection
        connection.close()
        return None

    def keep(self, way: Way, connection: http.client.HTTPConnection) -> None:
        """Take a connection back whose answer was read to its end."""
        for ends in list(self._idle)[: max(0, len(self._idle) - KEPT + 1)]:
            self._idle.pop(ends)[1].close()
        self._idle[way.ends] = (time.monotonic(), connection)

    def open(self, way: Way) -> http.client.HTTPConnection:
        """A new connection, to the address that was checked, whatever the name resolves to by now.

        Through a proxy, TLS goes to that address too. Plain HTTP must name the host to the proxy, which looks it up
        again. Raises: FetchError `proxy` where the proxy fails; OSError where the host does.
        """
        target, secure = way.target, way.target.url.scheme == "https"
        if way.proxy is None:
            sock = socket.create_connection((target.ip, target.port), timeout=self._timeout_s)
        else:
            sock = self._through(way.proxy, target if secure else None)
        if not secure:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)
        else:
            try:
                sock = self._context.wrap_socket(sock, server_hostname=target.host)  # its timeout counts for all of it
            except BaseException:
                sock.close()
                raise
            connection = http.client.HTTPSConnection(
                target.host, target.port, timeout=self._timeout_s, context=self._context
            )
        connection.sock = sock
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


def request_line(way: Way, path: str) -> tuple[str, dict[str, str]]:
    """(what stands behind GET, headers for the proxy). A proxy is told the whole address, unless it is a tunnel."""
    if way.proxy is None or way.target.url.scheme == "https":
        return path, {}
    host = f"[{way.target.host}]" if ":" in way.target.host else way.target.host
    return f"http://{host}:{way.target.port}{path}", way.proxy.headers
