"""The address behind a host's name, and whether it is public: a listing must not make us read our own network."""

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pipelines.fetching.base import FetchError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All assigned addresses; NAT64 and IPv4-mapped addresses lie outside and are judged by their IPv4 part."""
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared, behind a provider's NAT
            "127.0.0.0/8",  # this machine
            "169.254.0.0/16",  # link-local, metadata of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays from 6to4, given up
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
            "2001:2::/48",  # benchmarks
            "2001:10::/28",  # ORCHID, given up
            "2001:20::/28",  # ORCHIDv2: names of hosts, not places
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)
"""Refused although assigned. The rest of IPv6 is refused too: ::/96 and ::ffff:0:0:0/96 (forms of IPv4),
64:ff9b:1::/48 (NAT64 of one network), fc00::/7 and fec0::/10 (private), fe80::/10, ff00::/8."""


@dataclass(frozen=True)
class Target:
    """A checked address; connections go to `ip`, so that a second look-up cannot lead elsewhere."""

    url: SplitResult
    host: str
    port: int
    ip: str


def checked_target(url: str, allowed: Collection[str], *, by_proxy: bool = False) -> Target:
    """Look up the host of `url` and check where it leads.

    Args:
        allowed: host names and literal addresses that may be private or local.
        by_proxy: the request goes through a proxy. Names are looked up and checked here all the same, since the proxy
            can be in our own network. Only the proxy looks up names that are `allowed`.
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
    """Whether an address belongs to the public internet; forms of IPv4 in IPv6 are judged as IPv4."""
    address = ipaddress.ip_address(ip.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address not in _GLOBAL_UNICAST:
            return False
    refused = any(address.version == network.version and address in network for network in _REFUSED)
    return not refused and address.is_global and not address.is_multicast


def _look_up(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise FetchError("dns", f"{host}: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
