"""Where a host's name leads, and whether one may go there: a listing must not make us read our own network."""

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pipelines.fetching.base import FetchError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """An address that was checked; connections go to `ip`, so that a second look-up cannot lead elsewhere."""

    url: SplitResult
    host: str
    port: int
    ip: str


def checked_target(url: str, allowed: Collection[str], *, by_proxy: bool = False) -> Target:
    """Look up the host of `url` and check where it leads.

    Args:
        allowed: host names and literal addresses that may be private or local.
        by_proxy: a proxy will be asked for it. Names are looked up and checked here all the same, for the proxy may
            stand in our own network. Only what is `allowed` by name is left to the proxy to look up.
    Raises: FetchError: scheme_refused, address_refused, dns.
    """
    parts, host = split_address(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if by_proxy and host.lower() in allowed:
        return Target(parts, host, port, host)
    ips = _look_up(host, port)
    if host.lower() not in allowed:
        for ip in ips:
            if ip not in allowed and not is_public(ip):
                found = f"{host} leads to {ip}, which is private, local or reserved"
                raise FetchError("address_refused", f"{found}. Name it in allow_hosts, if you mean it.")
    return Target(parts, host, port, ips[0])


def split_address(url: str) -> tuple[SplitResult, str]:
    """(the parts of an address that may be fetched, its host). Raises FetchError `scheme_refused`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise FetchError("scheme_refused", f"not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("scheme_refused", f"{parts.scheme or 'no scheme'}: only http and https are fetched")
    return parts, host


def is_public(ip: str) -> bool:
    """Whether an address belongs to the open internet, also behind the IPv6 spellings of IPv4."""
    address = ipaddress.ip_address(ip.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


def _look_up(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise FetchError("dns", f"{host}: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
